/** The tools beside pgBackRest that this machine has or that are named. */
import type { TestServer } from '../test/support/postgres.ts';
import { Barman } from './barman.ts';
import { PgBaseBackup } from './pg-basebackup.ts';
import { PgProBackup } from './pg-probackup.ts';
import type { BackupTool } from './tool.ts';

/** Paths of programs. */
export type OtherPrograms = {
  readonly pgBaseBackup: string | undefined;
  readonly pgProBackup: string | undefined;
  readonly barman: string | undefined;
};

export async function openOthers(
  directory: string,
  server: TestServer,
  programs: OtherPrograms,
): Promise<readonly BackupTool[]> {
  const base = await PgBaseBackup.open(directory, server, programs.pgBaseBackup);
  const { pgProBackup } = programs;
  const barman =
    base === undefined ? undefined : await Barman.open(directory, server, programs.barman, base.program);
  return [
    ...(base === undefined ? [] : [base]),
    ...(pgProBackup === undefined ? [] : [await PgProBackup.open(directory, server, pgProBackup)]),
    ...(barman === undefined ? [] : [barman]),
  ];
}

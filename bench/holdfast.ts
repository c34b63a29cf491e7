/** Holdfast's side of the comparison: the agent's backup and restore functions, each in a process of its own. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { toLsn } from '../foundation/lsn.ts';
import { archiveLog } from '../test/support/hand-archive.ts';
import type { TestServer } from '../test/support/postgres.ts';
import type { ChildOrder } from './holdfast-process.ts';
import { type Measured, runMeasured } from './measured-command.ts';

export class Holdfast {
  readonly destination: string;
  readonly #server: TestServer;
  readonly #compression: string;
  #startLsn = toLsn(0n);

  constructor(directory: string, server: TestServer, compression: string) {
    this.destination = join(directory, `holdfast-${compression.replace(':', '-')}`);
    this.#server = server;
    this.#compression = compression;
  }

  async prepare(): Promise<void> {
    await rm(this.destination, { recursive: true, force: true });
  }

  async backUp(): Promise<Measured> {
    const measured = await run({
      kind: 'backup',
      port: this.#server.port,
      destination: this.destination,
      compression: this.#compression,
    });
    const { startLsn } = JSON.parse(measured.stdout) as { startLsn: string }; // holdfast-process.ts prints it
    this.#startLsn = toLsn(BigInt(startLsn));
    return measured;
  }

  /** A restore wants the log of the backup; it is not part of what is measured. */
  async archive(): Promise<void> {
    await archiveLog(this.#server, this.destination, this.#startLsn);
  }

  async restore(target: string): Promise<Measured> {
    return await run({ kind: 'restore', destination: this.destination, target });
  }
}

async function run(order: ChildOrder): Promise<Measured> {
  const program = join(import.meta.dirname, 'holdfast-process.ts');
  return await runMeasured([process.execPath, program, JSON.stringify(order)], { NODE_NO_WARNINGS: '1' });
}

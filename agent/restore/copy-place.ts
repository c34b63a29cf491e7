/** The settings of the copy that is being made, out of what was laid down. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ExternalFiles, layConfiguration } from '../../engine/postgres/restore/configuration.ts';
import type { CopyPlace } from '../../engine/postgres/restore/settings.ts';
import { FileKind } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readFiles } from './backup-set.ts';
import type { Prepared } from './prepare.ts';

/** Lays the configuration files out and says where and how the copy will run. */
export async function planCopyPlace(
  prepared: Prepared,
  port: number,
  socketDirectory: string,
  signal: AbortSignal,
): Promise<CopyPlace> {
  const external = await readExternalFiles(prepared, signal);
  const { meta, request, dataDirectory } = prepared;
  const files = await layConfiguration(dataDirectory, external, request.user);
  return {
    major: meta.postgresMajor,
    dataDirectory,
    port,
    socketDirectory,
    // What the server itself said wins over its files: it may have been started with other values.
    sourceSettings: new Map([...files, ...meta.settings.map(({ name, value }) => [name, value] as const)]),
    unit: request.unit,
  };
}

async function readExternalFiles(prepared: Prepared, signal: AbortSignal): Promise<ExternalFiles> {
  const texts = new Map<string, string>();
  for await (const file of readFiles(prepared.source, signal)) {
    if (file.kind !== FileKind.EXTERNAL) continue;
    const path = join(prepared.workDirectory, 'external', String(file.fileNumber));
    texts.set(file.externalPath, await readFile(path, 'utf8'));
  }
  return texts;
}

/** The text that was laid down; empty when there is none. */
export async function readAutoConf(dataDirectory: string): Promise<string> {
  return await readFile(join(dataDirectory, 'postgresql.auto.conf'), 'utf8').catch(() => '');
}

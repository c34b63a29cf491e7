/** Sealing a file that its own archiver did not seal. */
import { assert } from '../../foundation/assert.ts';
import { isError } from '../../foundation/errors.ts';
import { type LogFileIndex, type NewFindings, readLogIndex, writeLogIndex } from './index.ts';
import type { LogFile } from './log-file.ts';
import type { LogLookup } from './lookup.ts';

/**
 * Seals a predecessor's file with the length that the lookup accepts, after making that much durable: the predecessor may
 * have died between writing and syncing. When someone else has sealed it meanwhile, theirs holds. Returns the file as it
 * counts from now on, which the lookup takes over.
 */
export async function sealPredecessor(
  lookup: LogLookup,
  file: LogFile,
  findings: NewFindings,
  signal?: AbortSignal,
): Promise<LogFile> {
  assert(!file.hasIndex, 'only a file without an index is sealed');
  const { changeMap, ...kept } = findings;
  const { key, hasIndex: _hasIndex, ignored: _ignored, ...facts } = file;
  let index: LogFileIndex = { ...facts, ...kept };
  const { medium, root, round, group } = lookup.files.place;
  await medium.makeDurable(key, signal);
  try {
    await writeLogIndex(medium, root, round, group, { ...index, changeMap }, signal);
  } catch (error) {
    if (!isError(error, 'FILE_EXISTS')) throw error;
    index = await readLogIndex(medium, root, round, group, file, signal);
  }
  const sealed: LogFile = { ...index, key, hasIndex: true };
  lookup.noteSealed(sealed);
  return sealed;
}

/**
 * The notes beside a backup's `backup_info` and a round's `round_begin`: `note_1`, `note_2`, … What was found out is told
 * there, so that it is known as long as the backup is, whatever becomes of a catalog.
 */
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { type Note, NoteSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { type RoundKey, type SetKey, type TreeRoot, tree } from '../tree.ts';
import { readInfoIfThere, writeOnce } from './info-file.ts';

/** Notes beside one thing; more are refused. */
const MAX_NOTES = 100_000;
const WRITE_ATTEMPTS = 20;

/** What the notes are about. */
export type NotePlace =
  | { readonly kind: 'set'; readonly key: SetKey }
  | { readonly kind: 'round'; readonly key: RoundKey };

/** The notes by their numbers. One that is damaged is left out: it says nothing any more. Throws the medium's errors. */
export async function readNotes(
  medium: Medium,
  root: TreeRoot,
  place: NotePlace,
  signal?: AbortSignal,
): Promise<readonly Note[]> {
  const notes: Note[] = [];
  for (const ordinal of await listOrdinals(medium, root, place, signal)) {
    try {
      const note = await readInfoIfThere(medium, noteKey(root, place, ordinal), NoteSchema, signal);
      if (note !== undefined) notes.push(note);
    } catch (error) {
      if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
    }
  }
  return notes;
}

/** Writes the note under the next free number, durably. Throws the medium's errors. */
export async function writeNote(
  medium: Medium,
  root: TreeRoot,
  place: NotePlace,
  note: Note,
  signal?: AbortSignal,
): Promise<void> {
  let next = ((await listOrdinals(medium, root, place, signal)).at(-1) ?? 0) + 1;
  for (let attempt = 0; attempt < WRITE_ATTEMPTS && next <= MAX_NOTES; attempt += 1, next += 1) {
    try {
      await writeOnce(medium, noteKey(root, place, next), NoteSchema, note, signal);
      return;
    } catch (error) {
      if (!isError(error, 'FILE_EXISTS')) throw error; // another one took the number
    }
  }
  throw new HoldfastError('FILE_EXISTS', `no number is free for a note: ${noteKey(root, place, next)}`);
}

async function listOrdinals(
  medium: Medium,
  root: TreeRoot,
  place: NotePlace,
  signal: AbortSignal | undefined,
): Promise<readonly number[]> {
  const directory = noteKey(root, place, 1).replace(/\/[^/]*$/, '');
  const names = await medium.listNames(directory, signal);
  return names
    .flatMap((name) => {
      const match = /^note_([1-9][0-9]{0,5})$/.exec(name);
      return match?.[1] === undefined ? [] : [Number(match[1])];
    })
    .sort((a, b) => a - b);
}

function noteKey(root: TreeRoot, place: NotePlace, ordinal: number): string {
  return place.kind === 'set'
    ? tree.note(root, place.key, ordinal)
    : tree.roundNote(root, place.key, ordinal);
}

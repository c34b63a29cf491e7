/** Fetches the records of blocks and deltas, in as few ranged reads as possible. */
import { defined } from '../../../foundation/assert.ts';
import { HoldfastError, isError } from '../../../foundation/errors.ts';
import type { MacroBlockPlace } from '../../../storage-layout/macroblock/entry.ts';
import { planReads } from '../../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../../storage-layout/media/medium.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Bytes read along rather than starting another read. */
const MAX_GAP_BYTES = 64 * 1024;

/** A record, and the key of the macroblock file that it is in. */
export type PlacedPart = MacroBlockPlace & { readonly key: string };

/** Each part's record. Throws BACKUP_FILE_NOT_EXIST, DATA_CORRUPT naming file and offset, and the medium's errors. */
export async function readRecords<Part extends PlacedPart>(
  medium: Medium,
  parts: readonly Part[],
): Promise<ReadonlyMap<Part, Buffer>> {
  const records = new Map<Part, Buffer>();
  for (const [key, ofFile] of Map.groupBy(parts, (part) => part.key)) {
    const sorted = ofFile.toSorted((a, b) => a.offset - b.offset);
    for (const { begin, end, entries } of planReads(sorted, MAX_GAP_BYTES, READ_BYTES)) {
      const range = await readRange(medium, key, begin, end);
      for (const part of entries) {
        const record = range.subarray(part.offset - begin, part.offset - begin + part.storedBytes);
        if (record.length < part.storedBytes)
          throw new HoldfastError(
            'DATA_CORRUPT',
            `${key} at offset ${part.offset}: the file ends inside a macroblock of ${part.storedBytes} bytes`,
          );
        records.set(part, record);
      }
    }
  }
  return records;
}

/** One part's record out of what `readRecords` gave. */
export function recordOf<Part>(records: ReadonlyMap<Part, Buffer>, part: Part): Buffer {
  return defined(records.get(part), 'a record that was read');
}

async function readRange(medium: Medium, key: string, begin: number, end: number): Promise<Buffer> {
  try {
    return await medium.readRange(key, begin, end);
  } catch (error) {
    if (!isError(error, 'FILE_NOT_FOUND')) throw error;
    throw new HoldfastError('BACKUP_FILE_NOT_EXIST', `${key}: the file is missing`, { cause: error });
  }
}

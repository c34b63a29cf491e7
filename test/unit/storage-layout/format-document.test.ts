import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fromJson, type JsonValue, toJson } from '@bufbuild/protobuf';
import { describe, expect, it } from 'vitest';
import {
  decodeLogBlockHeader,
  decodeLogCheckpointHeader,
  encodeLogBlockHeader,
  encodeLogCheckpointHeader,
} from '../../../storage-layout/clog/block.ts';
import { decodeChanges, encodeChangeMap } from '../../../storage-layout/clog/change-map.ts';
import { decodeBlockPlaces } from '../../../storage-layout/clog/index.ts';
import { beginEncryptedFile } from '../../../storage-layout/encryption/key-ring.ts';
import {
  decodeMacroBlockEntries,
  ENTRY_BYTES,
  encodeBlockName,
  encodeMacroBlockEntry,
} from '../../../storage-layout/macroblock/entry.ts';
import {
  type DecodedRecord,
  decodeFileEnd,
  decodeFileHeader,
  decodeRecord,
  encodeFileEnd,
  encodeFileHeader,
  encodeRecord,
  RECORD,
} from '../../../storage-layout/records/framing.ts';
import { decodeMessage, encodeMessage, schemaOf } from '../../../storage-layout/records/messages.ts';
import type { RecordName } from '../../../storage-layout/records/types.ts';
import { parseTreePath } from '../../../storage-layout/tree.ts';

const DOCUMENT = readFileSync(join(import.meta.dirname, '../../../docs/format.md'), 'utf8');
const SOURCE = { file: 'docs/format.md' };
// Object.keys of a const table: its keys are the names.
const NAMES = Object.keys(RECORD) as RecordName[];

describe('docs/format.md', () => {
  it('has its parts in order', () => {
    const parts = [...DOCUMENT.matchAll(/^## (.+)$/gm)].map((match) => match[1]);
    expect(parts).toEqual(['Terms', 'Tree', 'Bytes', 'Examples', 'Changes']);
  });

  it('names every record type with its number and message, and no other', () => {
    const rows = [...DOCUMENT.matchAll(/^\| (\d+) \| ([a-z]\w+) \| [^|]+ \| ([^|]+) \|$/gm)];
    expect(rows.map((row) => [row[2], Number(row[1])])).toEqual(NAMES.map((name) => [name, RECORD[name]]));
    for (const row of rows) {
      const schema = schemaOf(RECORD[row[2] as RecordName]); // the rows' names were just compared
      if (schema !== undefined) expect(row[3]).toBe(`\`${schema.name}\``);
    }
  });

  it('lists only paths that the tree has', () => {
    const paths = fenced('paths')[0]?.text.trim().split('\n') ?? [];
    expect(paths.length).toBeGreaterThan(20);
    for (const path of paths) expect([path, parseTreePath(path)?.kind]).not.toContain(undefined);
  });

  it('has tables of bytes without holes', () => {
    const tables = DOCUMENT.split(/\n\n/).filter((part) => part.startsWith('| offset | size |'));
    expect(tables).toHaveLength(5);
    for (const table of tables) {
      const rows = [...table.matchAll(/^\| (\d+) \| (\d+) \|/gm)].map((row) => [
        Number(row[1]),
        Number(row[2]),
      ]);
      for (const [n, row] of rows.slice(1).entries())
        expect(row[0]).toBe((rows[n]?.[0] ?? 0) + (rows[n]?.[1] ?? 0));
    }
  });

  it('has one example per record type', () => {
    expect(fenced('hex').map((block) => block.name)).toHaveLength(NAMES.length);
    expect(new Set(fenced('hex').map((block) => block.name))).toEqual(new Set(NAMES));
  });

  it.each(fenced('hex'))(
    'has an example of $name that is read, and written again the same',
    ({ name, text }) => {
      const bytes = parseHex(text);
      const record = decodeRecord(bytes, 0, SOURCE);
      expect(record.next).toBe(bytes.length);
      expect(record.type).toBe(RECORD[name as RecordName]); // the test before this one compares the names
      expect(encodeAgain(record).toString('hex')).toBe(bytes.toString('hex'));
    },
  );

  it.each(fenced('json'))('has an example of $name whose message is the one in JSON', ({ name, text }) => {
    const schema = schemaOf(RECORD[name as RecordName]);
    const example = fenced('hex').find((block) => block.name === name);
    if (schema === undefined || example === undefined)
      throw new Error(`${name} has no message or no example`);
    const { payload } = decodeRecord(parseHex(example.text), 0, SOURCE);
    const written = fromJson(schema, JSON.parse(text) as JsonValue);
    expect(toJson(schema, decodeMessage(schema, payload, 0, SOURCE))).toEqual(toJson(schema, written));
  });

  it('has an example of an encrypted file that opens, and is encrypted again the same', () => {
    const [head, stored] = fenced('encrypted').map(({ text }) => parseHex(text));
    if (head === undefined || stored === undefined) throw new Error('there is no such example');
    const { fileId, keyId } = decodeFileHeader(decodeRecord(head, 0, SOURCE), SOURCE);
    const key = Uint8Array.from({ length: 32 }, (_, n) => n);
    const id = Buffer.from(keyId ?? []).toString('hex');
    const begun = beginEncryptedFile({ id, key }, RECORD.macroBlock, fileId);
    expect(begun.header.toString('hex')).toBe(head.toString('hex'));
    const { type, header, payload, extension } = decodeRecord(stored, 0, { ...SOURCE, cipher: begun.cipher });
    expect(payload.toString()).toBe('a very small block');
    expect(extension.equals(encodeBlockName({ fileNumber: 7, blockNumber: 2 }))).toBe(true);
    const seal = { cipher: begun.cipher, ordinal: header.ordinal };
    expect(encodeRecord({ type, payload, extension, seal }).toString('hex')).toBe(stored.toString('hex'));
  });

  it('shows the message of every record that has one', () => {
    const withMessage = NAMES.filter((name) => schemaOf(RECORD[name]) !== undefined);
    expect(
      fenced('json')
        .map((block) => block.name)
        .toSorted(),
    ).toEqual(withMessage.toSorted());
  });
});

/** The record's bytes from what was read of it. */
function encodeAgain(record: DecodedRecord): Buffer {
  const { type, extension, payload } = record;
  switch (type) {
    case RECORD.fileHeader: {
      const header = decodeFileHeader(record, SOURCE);
      return encodeFileHeader(header.contents, header.fileId);
    }
    case RECORD.fileEnd:
      return encodeFileEnd(decodeFileEnd(record, 0, SOURCE));
    case RECORD.macroBlockIndex: {
      const entries = decodeMacroBlockEntries(payload, 0, SOURCE);
      const again = Buffer.alloc(entries.length * ENTRY_BYTES);
      for (const [n, entry] of entries.entries()) encodeMacroBlockEntry(again, n * ENTRY_BYTES, entry);
      return encodeRecord({ type, payload: again });
    }
    case RECORD.logBlock:
      return encodeRecord({
        type,
        payload,
        extension: encodeLogBlockHeader(decodeLogBlockHeader(extension, 0, SOURCE)),
      });
    case RECORD.logCheckpoint: {
      const point = decodeLogCheckpointHeader(extension, 0, SOURCE);
      return encodeRecord({ type, payload, extension: encodeLogCheckpointHeader(point) });
    }
    case RECORD.logIndexBlocks:
      expect(decodeBlockPlaces({ ...record, offset: 0 }, SOURCE)).toEqual([
        { begin: 0x3000000n, offset: 153, storedBytes: 88, plainBytes: 16 },
      ]);
      return encodeRecord({ type, payload });
    case RECORD.logIndexChanges: {
      const changes = decodeChanges({ payload, offset: 0 }, SOURCE);
      const { payloads } = encodeChangeMap({
        forks: changes.filter((change) => change.kind === 'fork'),
        droppedRelations: changes.filter((change) => change.kind === 'droppedRelation'),
        createdDatabases: changes.filter((change) => change.kind === 'createdDatabase'),
        droppedDatabases: changes.filter((change) => change.kind === 'droppedDatabase'),
        unknownSpecial: undefined,
        walLevelMinimal: false,
      });
      expect(changes).toHaveLength(3);
      return encodeRecord({ type, payload: payloads[0] ?? Buffer.alloc(0) });
    }
    default: {
      const schema = schemaOf(type);
      const again =
        schema === undefined ? payload : encodeMessage(schema, decodeMessage(schema, payload, 0, SOURCE));
      return encodeRecord({ type, payload: again });
    }
  }
}

/** The document's fenced blocks of one kind: "```hex clusterOwner". */
function fenced(kind: string): { readonly name: string; readonly text: string }[] {
  return [...DOCUMENT.matchAll(/^```(\w+) ?(\w*)\n([\s\S]*?)^```$/gm)]
    .filter((match) => match[1] === kind)
    .map((match) => ({ name: match[2] ?? '', text: match[3] ?? '' }));
}

/** The bytes of an example; every line must begin with the offset of its first byte. */
function parseHex(text: string): Buffer {
  let bytes = Buffer.alloc(0);
  for (const line of text.trim().split('\n')) {
    const match = /^([0-9a-f]{4}) {2}((?:[0-9a-f]{2} ?)+)(?: *\| .*)?$/.exec(line);
    if (match?.[1] === undefined || match[2] === undefined)
      throw new Error(`not a line of an example: ${line}`);
    expect(Number.parseInt(match[1], 16)).toBe(bytes.length);
    bytes = Buffer.concat([bytes, Buffer.from(match[2].replaceAll(' ', ''), 'hex')]);
  }
  return bytes;
}

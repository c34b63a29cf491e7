/**
 * Any file of the format, decoded for people: every record with its place and its content as plain values (numbers, text,
 * lists, objects; LSNs as X/X, times as ISO text, bytes as text or hexadecimal). It goes by the records alone, so that a
 * file copied out of its tree can be described too. Damage does not end in an exception: the description says where it is.
 */
import type { DescField, DescMessage, Message } from '@bufbuild/protobuf';
import { ScalarType } from '@bufbuild/protobuf';
import { type ReflectMessage, reflect } from '@bufbuild/protobuf/reflect';
import { type ErrorCode, isError } from '../foundation/errors.ts';
import { formatLsn } from '../foundation/lsn.ts';
import { decodeLogBlockHeader, decodeLogCheckpointHeader } from './clog/block.ts';
import {
  decodeChanges,
  type LogChange,
  MACROBLOCK_PAGES,
  type MacroblockChanges,
} from './clog/change-map.ts';
import { decodeBlockPlaces } from './clog/index.ts';
import { decodeMacroBlockEntries, type MacroBlockPlace } from './macroblock/entry.ts';
import type { Medium } from './media/medium.ts';
import { decodeFileEnd, decodeFileHeader, RECORD } from './records/framing.ts';
import type { RecordSource } from './records/header.ts';
import { decodeMessage, schemaOf } from './records/messages.ts';
import { type PlacedRecord, readRecords } from './records/record-file.ts';
import { type RecordName, recordName } from './records/types.ts';
import { parseTreePath, type TreePath } from './tree.ts';

/** A value that prints as it is, and that JSON can hold. */
export type PlainValue =
  | string
  | number
  | boolean
  | readonly PlainValue[]
  | { readonly [name: string]: PlainValue };

export type RecordDescription = {
  readonly offset: number;
  /** Header and stored data. */
  readonly storedBytes: number;
  readonly type: RecordName;
  readonly compression: string;
  readonly plainBytes: number;
  readonly value: PlainValue;
};

export type FileDescription = {
  readonly key: string;
  /** What the place in the tree says, when the key is one of the tree. */
  readonly path: TreePath | undefined;
  readonly sizeBytes: number;
  /** What the file is about: its only record's type, or what its file header says. */
  readonly contents: RecordName | undefined;
  readonly records: readonly RecordDescription[];
  /** Where and why reading ended before the end of the file. */
  readonly problem: { readonly code: ErrorCode; readonly message: string } | undefined;
};

/** Lists longer than this are cut in the description; their length is told. */
const DEFAULT_ENTRY_LIMIT = 1000;
const TEXT_LIMIT_BYTES = 8192;

/**
 * Reads and describes one file. `entryLimit` bounds the entries shown of any one record. Throws FILE_NOT_FOUND and the
 * medium's errors; damage and unknown records are told in `problem`.
 */
export async function describeFile(
  medium: Medium,
  key: string,
  signal?: AbortSignal,
  entryLimit: number = DEFAULT_ENTRY_LIMIT,
): Promise<FileDescription> {
  const records: RecordDescription[] = [];
  let problem: FileDescription['problem'];
  try {
    for await (const record of readRecords(medium, key, signal))
      records.push(describeRecord(record, { file: key }, entryLimit));
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN', 'BACKUP_INVALID_PASSWORD')) throw error;
    problem = { code: error.code, message: error.message };
  }
  const stored = await medium.stat(key, signal);
  return {
    key,
    path: parseTreePath(key),
    sizeBytes: stored?.sizeBytes ?? 0,
    contents: contentsOf(records),
    records,
    problem,
  };
}

/** The content of one record. Throws DATA_CORRUPT, FORMAT_UNKNOWN. */
export function describeRecord(
  record: PlacedRecord,
  source: RecordSource,
  entryLimit: number = DEFAULT_ENTRY_LIMIT,
): RecordDescription {
  return {
    offset: record.offset,
    storedBytes: record.header.headerBytes + record.header.codedBytes,
    type: recordName(record.type) ?? 'fileEnd', // decodeHeader refuses types without a name
    compression: record.header.compression,
    plainBytes: record.header.plainBytes,
    value: describeContent(record, source, entryLimit),
  };
}

function describeContent(record: PlacedRecord, source: RecordSource, entryLimit: number): PlainValue {
  const { type, extension, payload, offset } = record;
  switch (type) {
    case RECORD.fileHeader: {
      const header = decodeFileHeader(record, source);
      return {
        contents: recordName(header.contents) ?? '',
        fileId: Buffer.from(header.fileId).toString('hex'),
        ...(header.keyId === undefined ? {} : { keyId: Buffer.from(header.keyId).toString('hex') }),
      };
    }
    case RECORD.fileEnd:
      return { ...decodeFileEnd(record, offset, source) };
    case RECORD.macroBlockIndex:
      return cut(decodeMacroBlockEntries(payload, offset, source), entryLimit, (entry) => ({
        fileNumber: entry.fileNumber,
        blockNumber: entry.blockNumber,
        plainBytes: entry.plainBytes,
        newestPageLsn: formatLsn(entry.newestPageLsn),
        pageCheckFailed: entry.pageCheckFailed,
        ...describePlace(entry),
        ...(entry.wholeBytes === undefined ? {} : { wholeBytes: entry.wholeBytes }),
        ...(entry.delta === undefined
          ? {}
          : { delta: { ...describePlace(entry.delta), pages: describeDelta(entry.delta.pages) } }),
      }));
    case RECORD.logIndexBlocks:
      return cut(decodeBlockPlaces(record, source), entryLimit, (block) => ({
        ...block,
        begin: formatLsn(block.begin),
      }));
    case RECORD.logIndexChanges:
      return cut(decodeChanges(record, source), entryLimit, describeChange);
    case RECORD.logBlock: {
      const block = decodeLogBlockHeader(extension, offset, source);
      return {
        timeline: block.timeline,
        begin: formatLsn(block.begin),
        end: formatLsn(block.begin + BigInt(record.header.plainBytes)),
        epoch: String(block.epoch),
        ...(block.firstCommitUs === undefined ? {} : { firstCommit: formatTime(block.firstCommitUs) }),
        ...(block.lastCommitUs === undefined ? {} : { lastCommit: formatTime(block.lastCommitUs) }),
      };
    }
    case RECORD.logCheckpoint: {
      const point = decodeLogCheckpointHeader(extension, offset, source);
      return {
        timeline: point.timeline,
        lsn: formatLsn(point.lsn),
        epoch: String(point.epoch),
        time: formatTime(point.timeUs),
      };
    }
    case RECORD.macroBlock:
      return {};
    default: {
      const schema = schemaOf(type);
      if (schema === undefined) return describeBytes(payload);
      return describeMessage(schema, decodeMessage(schema, payload, offset, source), entryLimit);
    }
  }
}

function contentsOf(records: readonly RecordDescription[]): RecordName | undefined {
  const [first] = records;
  if (first?.type !== 'fileHeader') return first?.type;
  const { value } = first;
  // describeContent gives a file header this one shape
  return (value as { readonly contents: RecordName }).contents;
}

function describeChange(change: LogChange): PlainValue {
  const database = { kind: change.kind, tablespace: change.tablespace, database: change.database };
  switch (change.kind) {
    case 'fork':
      return {
        ...database,
        relation: change.relation,
        fork: change.fork,
        created: change.created,
        ...(change.truncatedTo === undefined ? {} : { truncatedTo: change.truncatedTo }),
        pages: describePages(change.macroblocks),
      };
    case 'droppedRelation':
      return { ...database, relation: change.relation };
    default:
      return database;
  }
}

/** `3-5, 255`: pages of the block. */
function describeDelta(pages: Uint8Array): string {
  return describePages([{ macroblock: 0, pages }]);
}

/** `3-5, 700`: block numbers in the fork. */
function describePages(macroblocks: readonly MacroblockChanges[]): string {
  const ranges: { first: number; last: number }[] = [];
  for (const { macroblock, pages } of macroblocks) {
    for (let page = 0; page < MACROBLOCK_PAGES; page += 1) {
      if ((((pages[page >> 3] ?? 0) >> (page & 7)) & 1) === 0) continue;
      const block = macroblock * MACROBLOCK_PAGES + page;
      const range = ranges.at(-1);
      if (range !== undefined && range.last === block - 1) range.last = block;
      else ranges.push({ first: block, last: block });
    }
  }
  return ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(', ');
}

function describePlace(place: MacroBlockPlace): { readonly [name: string]: PlainValue } {
  return {
    setId: String(place.setId),
    subTaskId: place.subTaskId,
    offset: place.offset,
    storedBytes: place.storedBytes,
    crc32c: place.crc32c.toString(16).padStart(8, '0'),
    compression: place.compression,
  };
}

function describeMessage(schema: DescMessage, message: Message, entryLimit: number): PlainValue {
  return describeReflected(reflect(schema, message), entryLimit);
}

/** Every field that is set, by its name in the .proto file. */
function describeReflected(message: ReflectMessage, entryLimit: number): PlainValue {
  const fields: [string, PlainValue][] = [];
  for (const field of message.sortedFields) {
    if (message.isSet(field)) fields.push([field.name, describeField(message, field, entryLimit)]);
  }
  return Object.fromEntries(fields);
}

function describeField(message: ReflectMessage, field: DescField, entryLimit: number): PlainValue {
  switch (field.fieldKind) {
    case 'message':
      return describeReflected(message.get(field), entryLimit);
    case 'list':
      return cut([...message.get(field)], entryLimit, (item) =>
        field.listKind === 'message'
          ? describeReflected(item as ReflectMessage, entryLimit) // a list of messages reflects as messages
          : describeScalar(item, field),
      );
    case 'map':
      return Object.fromEntries(
        [...message.get(field)].map(([name, value]) => [String(name), describeScalar(value, field)]),
      );
    default:
      return describeScalar(message.get(field), field);
  }
}

function describeScalar(value: unknown, field: DescField): PlainValue {
  if (value instanceof Uint8Array) return describeBytes(value);
  if (field.enum !== undefined && typeof value === 'number') return field.enum.value[value]?.name ?? value;
  if (typeof value === 'bigint') {
    if (field.name.endsWith('_us')) return formatTime(value);
    const isLsn = field.scalar === ScalarType.FIXED64 && field.name !== 'system_identifier';
    return isLsn ? formatLsn(value) : String(value);
  }
  return typeof value === 'number' || typeof value === 'boolean' ? value : String(value);
}

/** At most `limit` items; when some are left out, the list becomes `{ count, shown }`. */
function cut<Item>(items: readonly Item[], limit: number, describe: (item: Item) => PlainValue): PlainValue {
  const shown = items.slice(0, limit).map(describe);
  return shown.length === items.length ? shown : { count: items.length, shown };
}

/** Printable UTF-8 as text, anything else as hexadecimal; long ones are cut. */
function describeBytes(bytes: Uint8Array): string {
  const head = Buffer.from(bytes.subarray(0, TEXT_LIMIT_BYTES));
  const more = bytes.length > head.length ? `… (${bytes.length} bytes)` : '';
  const text = head.toString('utf8');
  const isText = bytes.length > 0 && /^[\P{C}\n\t\r]*$/u.test(text) && Buffer.from(text).equals(head);
  return (isText ? text : head.toString('hex')) + more;
}

/** ISO 8601 in UTC with microseconds. */
function formatTime(timeUs: bigint): string {
  const microseconds = ((timeUs % 1_000_000n) + 1_000_000n) % 1_000_000n;
  const date = new Date(Number((timeUs - microseconds) / 1000n));
  if (Number.isNaN(date.getTime())) return `${timeUs} us`;
  return date.toISOString().replace('.000Z', `.${String(microseconds).padStart(6, '0')}Z`);
}

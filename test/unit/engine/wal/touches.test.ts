/** What a TouchRecorder keeps of real records: neither less than they touch nor, within what it remembers, twice. */
import { expect, it } from 'vitest';
import { RecordDecoder } from '../../../../engine/postgres/wal/blocks.ts';
import { RecordView } from '../../../../engine/postgres/wal/record.ts';
import { TOUCH_FIELDS, TouchRecorder } from '../../../../engine/postgres/wal/touches.ts';

type Page = readonly [tablespace: number, database: number, relation: number, fork: number, block: number];

/** A heap record (resource manager 10) that refers to the pages, without images or data. */
function recordOf(pages: readonly Page[]): RecordView {
  const bytes = Buffer.alloc(24 + pages.length * 20);
  bytes[17] = 10;
  for (const [id, [tablespace, database, relation, fork, block]] of pages.entries()) {
    const at = 24 + id * 20;
    bytes[at] = id;
    bytes[at + 1] = fork;
    for (const [index, value] of [tablespace, database, relation, block].entries())
      bytes.writeUInt32LE(value, at + 4 + index * 4);
  }
  const record = new RecordView();
  record.bytes = bytes;
  record.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  record.lengthBytes = bytes.length;
  return record;
}

function touched(recorder: TouchRecorder): Page[] {
  const { pages } = recorder.take();
  return Array.from(
    { length: pages.length / TOUCH_FIELDS },
    (_, index) => [...pages.subarray(index * TOUCH_FIELDS, (index + 1) * TOUCH_FIELDS)] as unknown as Page, // five
  );
}

it('tells pages apart by tablespace, database, relation, fork and block', () => {
  const pages: readonly Page[] = [
    [1663, 5, 16384, 0, 7],
    [1664, 5, 16384, 0, 7],
    [1663, 6, 16384, 0, 7],
    [1663, 5, 16385, 0, 7],
    [1663, 5, 16384, 1, 7],
    [1663, 5, 16384, 0, 8],
  ];
  const recorder = new TouchRecorder();
  const decoder = new RecordDecoder();
  for (let round = 0; round < 3; round += 1) recorder.add(recordOf(pages), decoder);
  expect(new Set(touched(recorder).map(String))).toEqual(new Set(pages.map(String)));
});

it('keeps pages that are touched again and again only once', () => {
  const recorder = new TouchRecorder();
  const decoder = new RecordDecoder();
  const pages: readonly Page[] = [
    [1663, 5, 16384, 0, 7],
    [1663, 5, 16390, 0, 9],
  ];
  for (let round = 0; round < 3; round += 1) recorder.add(recordOf(pages), decoder);
  expect(touched(recorder)).toEqual(pages);
});

it('keeps a page again after it was taken', () => {
  const recorder = new TouchRecorder();
  const decoder = new RecordDecoder();
  recorder.add(recordOf([[1663, 5, 16384, 0, 7]]), decoder);
  expect(touched(recorder)).toEqual([[1663, 5, 16384, 0, 7]]);
  recorder.add(recordOf([[1663, 5, 16384, 0, 7]]), decoder);
  expect(touched(recorder)).toEqual([[1663, 5, 16384, 0, 7]]);
});

it('loses no page among more than it remembers', () => {
  const recorder = new TouchRecorder();
  const decoder = new RecordDecoder();
  const wanted = new Set<string>();
  for (let index = 0; index < 30_000; index += 1) {
    const page: Page = [1663, 5, 16384 + (index % 7), index % 3, (index * 2_654_435_761) % 6000];
    wanted.add(String(page));
    recorder.add(recordOf([page]), decoder);
  }
  expect(new Set(touched(recorder).map(String))).toEqual(wanted);
});

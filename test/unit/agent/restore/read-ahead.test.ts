/** Log that a thread reads ahead is the log that the lookup reads. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { LogReader } from '../../../../agent/restore/log-path.ts';
import { ReadAheadLog } from '../../../../agent/restore/read-ahead.ts';
import { type Lsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { LogLookup } from '../../../../storage-layout/clog/lookup.ts';
import { LogFileWriter } from '../../../../storage-layout/clog/writer.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { damage, filesOfKind } from '../../../support/damage.ts';
import { GROUP, ROOT, ROUND } from '../../storage-layout/support.ts';

const FIRST = toTimeline(1);
const BEGIN = toLsn(0x3000000n);
const FILES = 5;
const BLOCKS = 9;
const signal = new AbortController().signal;

let directory: string;
let medium: Medium;
let end: Lsn;
const uri = () => `file://${directory}`;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-read-ahead-'));
  medium = await openMedium(uri());
  let at = BEGIN;
  for (let fileId = 1n; fileId <= BigInt(FILES); fileId += 1n) {
    const file = await LogFileWriter.create(medium, ROOT, ROUND, GROUP, {
      fileId,
      epoch: 1n,
      timeline: FIRST,
      begin: at,
      segmentSizeBytes: 2 ** 24,
      systemIdentifier: 7n,
      compression: 'zstd:1',
    });
    for (let block = 0; block < BLOCKS; block += 1) {
      // Larger from block to block, and every third one does not compress.
      const sizeBytes = 10_001 * (block + Number(fileId));
      const data = block % 3 === 0 ? randomBytes(sizeBytes) : Buffer.alloc(sizeBytes, block);
      await file.appendBlock({ begin: at, data: [data], firstCommitUs: undefined, lastCommitUs: undefined });
      at = toLsn(at + BigInt(sizeBytes));
    }
    await file.close();
  }
  end = at;
});
afterAll(async () => {
  await medium[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

async function bytesOf(reader: LogReader, from: Lsn, until: Lsn): Promise<Buffer> {
  const bytes = Buffer.alloc(Number(until - from));
  let at = from;
  for await (const chunk of reader.read(FIRST, from, until, signal)) {
    expect(chunk.begin).toBe(at);
    bytes.set(chunk.data, Number(chunk.begin - from));
    at = toLsn(at + BigInt(chunk.data.length));
  }
  expect(at).toBe(until);
  return bytes;
}

async function openBoth() {
  const lookup = await LogLookup.open(medium, ROOT, ROUND, GROUP);
  return { lookup, ahead: new ReadAheadLog(lookup, uri()) };
}

test('gives the same bytes, whole files or parts of blocks', async () => {
  const { lookup, ahead } = await openBoth();
  for (const [from, until] of [
    [BEGIN, end],
    [toLsn(BEGIN + 12_345n), toLsn(end - 7n)],
    [toLsn(BEGIN + 5n), toLsn(BEGIN + 6n)],
  ] as const) {
    const read = await bytesOf(ahead, from, until);
    expect(read.equals(await bytesOf(lookup, from, until))).toBe(true);
  }
});

test('may be left in the middle', async () => {
  const { ahead } = await openBoth();
  for await (const chunk of ahead.read(FIRST, BEGIN, end, signal)) {
    expect(chunk.begin).toBe(BEGIN);
    break;
  }
});

test('says which file is damaged, after the log before it', async () => {
  const { lookup, ahead } = await openBoth();
  await bytesOf(lookup, BEGIN, end); // it knows all files; what happens to one of them later, it does not
  const path = (await filesOfKind(directory, 'logData'))[2] ?? '';
  await using _damaged = await damage(path, 'flip', 0.4);
  let bytes = 0;
  const reading = (async () => {
    for await (const chunk of ahead.read(FIRST, BEGIN, end, signal)) bytes += chunk.data.length;
  })();
  await expect(reading).rejects.toMatchObject({
    code: 'DATA_CORRUPT',
    message: expect.stringContaining('3.1') as string,
  });
  expect(bytes).toBeGreaterThan(0);
});

test('is refused where log is missing', async () => {
  const { ahead } = await openBoth();
  await expect(bytesOf(ahead, BEGIN, toLsn(end + 1n))).rejects.toMatchObject({ code: 'LOG_GAP' });
});

test('ends when it is aborted', async () => {
  const { ahead } = await openBoth();
  const stop = new AbortController();
  const reading = (async () => {
    for await (const _chunk of ahead.read(FIRST, BEGIN, end, stop.signal)) stop.abort(new Error('enough'));
  })();
  await expect(reading).rejects.toThrow('enough');
});

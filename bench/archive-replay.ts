/** The child of `archive.ts`: an archiver whose server is a directory of segments. Argument: a `ReplayOrder` as JSON. */
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { LogFileSequence } from '../agent/archive/file-sequence.ts';
import { NO_CHECKPOINT } from '../agent/archive/policy.ts';
import { Streaming } from '../agent/archive/streaming.ts';
import type { Instance, LogChunk, LogStream } from '../engine/engine.ts';
import { createLogInspector } from '../engine/postgres/wal/inspector.ts';
import { systemClock } from '../foundation/clock.ts';
import { type Lsn, segmentName, toLsn, toTimeline } from '../foundation/lsn.ts';
import { MountFileSchema } from '../proto/gen/holdfast/v1/records_pb.ts';
import { parseCompression } from '../storage-layout/macroblock/compress.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { writeOnce } from '../storage-layout/records/info-file.ts';
import { tree } from '../storage-layout/tree.ts';
import { LOG_PLACE } from './log-place.ts';

export type ReplayOrder = {
  readonly walDirectory: string;
  readonly destination: string;
  readonly begin: string;
  readonly end: string;
  readonly compression: string;
};

const SEGMENT_BYTES = 16 * 2 ** 20;
/** As a walsender sends it. */
const CHUNK_BYTES = 128 * 1024;
const TIMELINE = toTimeline(1);

const { root, round, group } = LOG_PLACE;
const order = JSON.parse(process.argv[2] ?? 'null') as ReplayOrder; // from archive.ts
const begin = toLsn(BigInt(order.begin));
const end = toLsn(BigInt(order.end));

await mkdir(order.destination, { recursive: true });
await using medium = await openMedium(`file://${order.destination}`);
await writeOnce(medium, tree.mountFile(root, round), MountFileSchema, create(MountFileSchema, round));
await using files = new LogFileSequence({
  place: { medium, root, round, group },
  epoch: 1n,
  timeline: TIMELINE,
  systemIdentifier: 1n,
  segmentSizeBytes: SEGMENT_BYTES,
  compression: parseCompression(order.compression),
  clock: systemClock,
  lastFileId: 0n,
  end: begin,
  unbroken: { since: begin, archivers: 0n },
  maxCommitUs: undefined,
});
const drain = new AbortController();
const streaming = new Streaming({
  instance: idleInstance(),
  stream: replay(),
  inspector: createLogInspector({
    segmentSizeBytes: SEGMENT_BYTES,
    timeline: TIMELINE,
    systemIdentifier: undefined,
    begin,
    collectTouches: true,
  }),
  files,
  checkpointIntervalMs: 1000,
  clock: systemClock,
  checkpoint: NO_CHECKPOINT,
  sealUpTo: toLsn(0n),
  flushUpTo: toLsn(0n),
  synchronous: false,
  drain: drain.signal,
  changed: () => undefined,
});
const startedMs = performance.now();
await streaming.run(new AbortController().signal);
const seconds = (performance.now() - startedMs) / 1000;
console.log(JSON.stringify({ seconds }));

function replay(): LogStream {
  return {
    timeline: TIMELINE,
    [Symbol.asyncIterator]: () => chunks(),
    acknowledge: () => undefined,
    [Symbol.asyncDispose]: async () => await Promise.resolve(),
  };
}

async function* chunks(): AsyncGenerator<LogChunk> {
  const segment = Buffer.allocUnsafeSlow(SEGMENT_BYTES);
  for (let at: bigint = begin; at < end; at += BigInt(SEGMENT_BYTES)) {
    await using file = await open(join(order.walDirectory, segmentName(TIMELINE, at, SEGMENT_BYTES)));
    await file.read(segment, 0, SEGMENT_BYTES, 0);
    for (let offset = 0; offset < SEGMENT_BYTES; offset += CHUNK_BYTES) {
      const data = segment.subarray(offset, offset + CHUNK_BYTES);
      yield { begin: toLsn(at + BigInt(offset)), data, serverEnd: end, serverClockUs: 1n };
    }
  }
  drain.abort(new Error('all was replayed'));
}

function idleInstance(): Instance {
  const position: { readonly lsn: Lsn; readonly clockUs: bigint; readonly timeline: typeof TIMELINE } = {
    lsn: end,
    clockUs: 1n,
    timeline: TIMELINE,
  };
  const partial: Partial<Instance> = {
    insertPosition: async () => await Promise.resolve(position),
    slotState: async () =>
      await Promise.resolve({
        exists: true,
        active: true,
        restartLsn: begin,
        walStatus: 'reserved',
        invalidationReason: '',
        retainedBytes: 0n,
        synchronous: false,
      }),
  };
  return partial as Instance; // streaming uses nothing else of it
}

/** A worker thread of a synthetic full: does its jobs one after the other. The parent ends it by ending its thread. */
import { parentPort } from 'node:worker_threads';
import { defined } from '../../../foundation/assert.ts';
import { systemClock } from '../../../foundation/clock.ts';
import { FileCiphers } from '../../../storage-layout/encryption/key-ring.ts';
import { parseCompression } from '../../../storage-layout/macroblock/compress.ts';
import { MACROBLOCK_BYTES } from '../../../storage-layout/macroblock/entry.ts';
import { openKeyedMedium } from '../../../storage-layout/media/with-keys.ts';
import { plainError } from '../../plain-error.ts';
import { threadSettings } from '../../thread-settings.ts';
import { Counters } from '../counters.ts';
import { SharedLimits, Throttle } from '../throttle.ts';
import { copyMacroBlockFile, type MakeContext, makeBlocks } from './make-blocks.ts';
import type { SyntheticJob, SyntheticWorkerData, SyntheticWorkerMessage } from './synthetic-job.ts';

const port = defined(parentPort, 'the port of a worker thread');
const data = await threadSettings<SyntheticWorkerData>(); // only synthetic-backup.ts starts this file
const never = new AbortController().signal;
const medium = await openKeyedMedium(data.destinationUri, data.keys, never);
const context: MakeContext = {
  ...data,
  medium,
  ciphers: new FileCiphers(medium),
  compression: parseCompression(data.compression),
  counters: new Counters(data.counters),
  throttle: new Throttle(new SharedLimits(data.limits).shareOf(data.workerCount), systemClock),
  blockBuffer: Buffer.allocUnsafeSlow(MACROBLOCK_BYTES),
  deltaBuffer: Buffer.allocUnsafeSlow(MACROBLOCK_BYTES),
};
let queue: Promise<void> = Promise.resolve();

port.on('message', (job: SyntheticJob) => {
  queue = runAfter(queue, job);
});

async function runAfter(before: Promise<void>, job: SyntheticJob): Promise<void> {
  await before;
  try {
    send(await run(job));
  } catch (error) {
    send({ kind: 'failed', ...plainError(error) });
  }
}

async function run(job: SyntheticJob): Promise<SyntheticWorkerMessage> {
  if (job.kind === 'copy') {
    const made = await copyMacroBlockFile(context, job.copy, never);
    return { kind: 'done', subTaskId: job.copy.subTaskId, ...made };
  }
  return { kind: 'done', subTaskId: job.subTaskId, ...(await makeBlocks(context, job, never)) };
}

function send(message: SyntheticWorkerMessage): void {
  port.postMessage(message, []);
}

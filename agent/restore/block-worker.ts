/** A worker thread of a restore: lays one job after the other as they come, and tells of each. */
import { parentPort } from 'node:worker_threads';
import { assert } from '../../foundation/assert.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import { plainError } from '../plain-error.ts';
import { threadSettings } from '../thread-settings.ts';
import type { BlockJob, BlockWorkerData, BlockWorkerMessage } from './block-job.ts';
import { BlockLayer, type LaidBlocks } from './block-layer.ts';

const port = parentPort;
assert(port !== null, 'block-worker.ts runs as a worker thread');
// Only a restore starts this file.
const data = await threadSettings<BlockWorkerData>();
const layer = new BlockLayer(data, await openKeyedMedium(data.uri, data.keys));
const send = (message: BlockWorkerMessage) => port.postMessage(message, []);
let queue: Promise<void> = Promise.resolve();

port.on('message', (job: BlockJob) => {
  queue = runAfter(queue, job);
});

/** The next job begins while the last blocks of this one are being written. */
async function runAfter(before: Promise<void>, job: BlockJob): Promise<void> {
  await before;
  try {
    const { written } = await layer.lay(job);
    void report(written);
  } catch (error) {
    reportFailure(error);
  }
}

async function report(written: Promise<LaidBlocks>): Promise<void> {
  try {
    send({ kind: 'done', ...(await written) });
  } catch (error) {
    reportFailure(error);
  }
}

function reportFailure(error: unknown): void {
  send({ kind: 'failed', ...plainError(error) });
}

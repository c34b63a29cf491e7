/** A worker thread of a delta restore: compares the blocks of one job after the other with what stands in the files. */
import { parentPort } from 'node:worker_threads';
import { assert } from '../../foundation/assert.ts';
import { MACROBLOCK_BYTES } from '../../storage-layout/macroblock/entry.ts';
import type { Failed } from '../job-pool.ts';
import { plainError } from '../plain-error.ts';
import { threadSettings } from '../thread-settings.ts';
import type { BlockJob } from './block-job.ts';
import { type ComparedJob, compareBlocks } from './compare-blocks.ts';

export type CompareWorkerMessage = (ComparedJob & { readonly kind: 'done' }) | Failed;

const port = parentPort;
assert(port !== null, 'compare-worker.ts runs as a worker thread');
await threadSettings<undefined>(); // there are none
const buffer = Buffer.allocUnsafeSlow(MACROBLOCK_BYTES);
const send = (message: CompareWorkerMessage) => port.postMessage(message, []);

port.on('message', (job: BlockJob) => {
  try {
    send({ kind: 'done', ...compareBlocks(job, buffer) });
  } catch (error) {
    send({ kind: 'failed', ...plainError(error) });
  }
});

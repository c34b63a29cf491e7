/** A worker thread of a delta restore: compares the blocks of one job after the other with what stands in the files. */
import { parentPort } from 'node:worker_threads';
import { assert } from '../../foundation/assert.ts';
import { type ErrorCode, toHoldfastError } from '../../foundation/errors.ts';
import { MACROBLOCK_BYTES } from '../../storage-layout/macroblock/index.ts';
import type { BlockJob } from './block-job.ts';
import { type ComparedJob, compareBlocks } from './compare-blocks.ts';

export type CompareWorkerMessage =
  | (ComparedJob & { readonly kind: 'done' })
  | {
      readonly kind: 'failed';
      readonly code: ErrorCode;
      readonly message: string;
      readonly hint: string | undefined;
      readonly detail: string | undefined;
    };

const port = parentPort;
assert(port !== null, 'compare-worker.ts runs as a worker thread');
const buffer = Buffer.allocUnsafeSlow(MACROBLOCK_BYTES);
const send = (message: CompareWorkerMessage) => port.postMessage(message, []);

port.on('message', (job: BlockJob) => {
  try {
    send({ kind: 'done', ...compareBlocks(job, buffer) });
  } catch (error) {
    const { code, message, hint, detail } = toHoldfastError(error);
    send({ kind: 'failed', code, message, hint, detail });
  }
});

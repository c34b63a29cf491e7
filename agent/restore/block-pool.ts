/** The worker threads of one restore, which lay blocks down. */
import { JobPool } from '../job-pool.ts';
import type { BlockJob, BlockWorkerData, BlockWorkerMessage } from './block-job.ts';

export class BlockPool extends JobPool<BlockJob, BlockWorkerMessage> {
  constructor(size: number, data: BlockWorkerData, onDone: (bytes: number, blocks: number) => void) {
    super(new URL('./block-worker.ts', import.meta.url), size, data, ({ bytes, blocks }) =>
      onDone(bytes, blocks),
    );
  }
}

/** The worker threads of one restore, which lay blocks down. */
import { JobPool } from '../job-pool.ts';
import { Threads } from '../threads.ts';
import type { BlockJob, BlockWorkerData, BlockWorkerMessage } from './block-job.ts';

/** For a `BlockPool`. */
export function blockThreads(expected: number): Threads {
  return new Threads(new URL('./block-worker.ts', import.meta.url), expected);
}

export class BlockPool extends JobPool<BlockJob, BlockWorkerMessage> {
  constructor(
    threads: Threads,
    size: number,
    data: BlockWorkerData,
    onDone: (bytes: number, blocks: number) => void,
  ) {
    super(threads, size, data, ({ bytes, blocks }) => onDone(bytes, blocks));
  }
}

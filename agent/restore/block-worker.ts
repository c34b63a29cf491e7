/**
 * A worker thread of a restore: fetches the blocks of a job in as few ranged reads as possible, the next range while
 * this one is decompressed, checks every block and writes it in place. Its buffers are kept from job to job.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fdatasync,
  ftruncateSync,
  openSync,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import { parentPort, workerData } from 'node:worker_threads';
import { assert, defined } from '../../foundation/assert.ts';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import { applyDelta, baseBytes, deltaBytes } from '../../storage-layout/macroblock/delta.ts';
import { MACROBLOCK_BYTES, type MacroBlockPlace } from '../../storage-layout/macroblock/index.ts';
import { decodeMacroBlock, type PlannedRead, planReads } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { BlockJob, BlockWorkerData, BlockWorkerMessage, StoredBlock, TargetFile } from './block-job.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Bytes read along rather than starting another read. */
const MAX_GAP_BYTES = 64 * 1024;
/** A job's part of a file that is worth a write-back of its own. */
const WRITE_BACK_BYTES = 4 * 1024 * 1024;

type FileRead<Part> = { readonly key: string; readonly read: PlannedRead<Part> };

/** The file that was written last stays open: blocks come in file order. */
class OpenTarget {
  #index = -1;
  #descriptor = -1;
  #writtenBytes = 0;
  readonly #owner: BlockWorkerData['owner'];
  readonly #writeBack: WriteBack;

  constructor(owner: BlockWorkerData['owner'], writeBack: WriteBack) {
    this.#owner = owner;
    this.#writeBack = writeBack;
  }

  /** Opens a file of the job unless it is open, created with its size, mode and owner on first sight. */
  open(files: readonly TargetFile[], index: number): void {
    if (index === this.#index) return;
    this.close();
    const file = defined(files[index], 'the file of a block');
    this.#descriptor = openSync(
      file.path,
      constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW,
      file.mode,
    );
    this.#index = index;
    ftruncateSync(this.#descriptor, file.sizeBytes);
    fchmodSync(this.#descriptor, file.mode);
    if (this.#owner !== undefined) fchownSync(this.#descriptor, this.#owner.uid, this.#owner.gid);
  }

  /** Writes all of `data` at `position` of the file that `descriptor` gave last. */
  write(data: Buffer, position: number): void {
    for (let done = 0; done < data.length; )
      done += writeSync(this.#descriptor, data, done, data.length - done, position + done);
    this.#writtenBytes += data.length;
  }

  close(): void {
    if (this.#descriptor < 0) return;
    if (this.#writtenBytes >= WRITE_BACK_BYTES) this.#writeBack.begin(this.#descriptor);
    else closeSync(this.#descriptor);
    this.#descriptor = -1;
    this.#index = -1;
    this.#writtenBytes = 0;
  }
}

/**
 * Makes the disk busy from the first job on: the kernel would keep some gigabytes before it writes any, and the sync at
 * the end would wait for all of them. What makes the restore durable is that sync; here nothing is promised.
 */
class WriteBack {
  #pending: Promise<void> = Promise.resolve();

  /** Takes the descriptor and closes it. */
  begin(descriptor: number): void {
    const before = this.#pending;
    this.#pending = (async () => {
      await before;
      await syncAndClose(descriptor);
    })();
    this.#pending.catch(() => undefined); // whoever settles sees it; until then it is nobody's
  }

  /** Waits for what has begun: the worker runs no further ahead of the disk than a job. */
  async settle(): Promise<void> {
    await this.#pending;
  }
}

async function syncAndClose(descriptor: number): Promise<void> {
  try {
    await promisify(fdatasync)(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

class BlockWorker {
  readonly #data: BlockWorkerData;
  readonly #medium: Medium;
  readonly #writeBack = new WriteBack();
  readonly #plain = Buffer.allocUnsafeSlow(MACROBLOCK_BYTES);
  readonly #buffers: [Buffer, Buffer] = [
    Buffer.allocUnsafeSlow(READ_BYTES),
    Buffer.allocUnsafeSlow(READ_BYTES),
  ];

  constructor(data: BlockWorkerData, medium: Medium) {
    this.#data = data;
    this.#medium = medium;
  }

  /** Throws DATA_CORRUPT naming file and offset, and the medium's and the file system's errors. */
  async run(job: BlockJob): Promise<{ readonly bytes: number; readonly blocks: number }> {
    const target = new OpenTarget(this.#data.owner, this.#writeBack);
    try {
      const filled = new Set(job.blocks.map((block) => block.file));
      for (const index of job.files.keys()) if (!filled.has(index)) target.open(job.files, index);
      const deltas = await this.#readDeltas(job);
      const reads = this.#planReads(job.blocks);
      let bytes = 0;
      let pending = this.#fetch(reads, 0);
      for (const [index, { key, read }] of reads.entries()) {
        const stored = await pending;
        pending = this.#fetch(reads, index + 1);
        pending.catch(() => undefined); // awaited in the next turn, unless this one fails first
        for (const block of read.entries) {
          const base = this.#decode(
            key,
            read.begin,
            stored,
            { ...block, plainBytes: baseBytes(block) },
            this.#plain,
          );
          bytes += this.#write(job, target, base, block, deltas.get(block));
        }
      }
      await this.#writeBack.settle(); // the job before's
      target.close();
      return { bytes, blocks: job.blocks.length };
    } finally {
      target.close();
    }
  }

  /** The plain bytes of the job's deltas: no more than half of its blocks' bytes. */
  async #readDeltas(job: BlockJob): Promise<ReadonlyMap<StoredBlock, Buffer>> {
    const deltas = new Map<StoredBlock, Buffer>();
    const parts = job.blocks.flatMap((block) =>
      block.delta === undefined ? [] : [{ ...block.delta, block, plainBytes: deltaBytes(block.delta.pages) }],
    );
    for (const { key, read } of this.#planReads(parts)) {
      const stored = await this.#medium.readRange(key, read.begin, read.end);
      for (const part of read.entries) {
        const into = Buffer.allocUnsafe(part.plainBytes);
        deltas.set(part.block, this.#decode(key, read.begin, stored, part, into));
      }
    }
    return deltas;
  }

  /** Ranges of macroblock files that hold all of `parts`, whole blocks or deltas. */
  #planReads<Part extends MacroBlockPlace>(parts: readonly Part[]): readonly FileRead<Part>[] {
    const byFile = Map.groupBy(parts, (part) => `${part.setId}.${part.subTaskId}`);
    return [...byFile.values()].flatMap((ofFile) => {
      const { setId, subTaskId } = defined(ofFile[0], 'a group has a member');
      const key = tree.macroBlock(
        { clusterName: this.#data.clusterName, clusterId: this.#data.clusterId },
        { tenantId: this.#data.tenantId, fullSetId: this.#data.fullSetId, setId },
        this.#data.partitionGroup,
        subTaskId,
      );
      const sorted = ofFile.toSorted((a, b) => a.offset - b.offset);
      return planReads(sorted, MAX_GAP_BYTES, READ_BYTES).map((read) => ({ key, read }));
    });
  }

  /** Begins the read `index`, if there is one; reads use the two buffers in turn. */
  async #fetch(reads: readonly FileRead<StoredBlock>[], index: number): Promise<Buffer> {
    const next = reads[index];
    if (next === undefined) return this.#plain.subarray(0, 0);
    const { begin, end } = next.read;
    let buffer = this.#buffers[index % 2 === 0 ? 0 : 1];
    if (buffer.length < end - begin) {
      buffer = Buffer.allocUnsafeSlow(end - begin);
      this.#buffers[index % 2 === 0 ? 0 : 1] = buffer;
    }
    return await this.#medium.readRange(next.key, begin, end, buffer);
  }

  /** The plain bytes of one record of `stored`, which begins at `begin` of the file; mostly in `into`. */
  #decode(
    key: string,
    begin: number,
    stored: Buffer,
    part: MacroBlockPlace & { readonly plainBytes: number },
    into: Buffer,
  ): Buffer {
    const offset = part.offset - begin;
    if (offset + part.storedBytes > stored.length) {
      throw new HoldfastError(
        'DATA_CORRUPT',
        `${key} at offset ${part.offset}: the file ends inside a macroblock of ${part.storedBytes} bytes`,
      );
    }
    return decodeMacroBlock(stored.subarray(offset, offset + part.storedBytes), part, into, key);
  }

  #write(
    job: BlockJob,
    target: OpenTarget,
    base: Buffer,
    block: StoredBlock,
    delta: Buffer | undefined,
  ): number {
    const pages = block.delta?.pages;
    const isWhole = block.wholeBytes === undefined && pages === undefined;
    const change = pages === undefined || delta === undefined ? undefined : { pages, bytes: delta };
    const plain = isWhole ? base : applyDelta(this.#plain, block, change);
    target.open(job.files, block.file);
    target.write(plain, block.position);
    return plain.length;
  }
}

const port = parentPort;
assert(port !== null, 'block-worker.ts runs as a worker thread');
// The restore that starts this thread gives it exactly this.
const data = workerData as BlockWorkerData;
const worker = new BlockWorker(data, await openMedium(data.uri));
const send = (message: BlockWorkerMessage) => port.postMessage(message, []);
let queue: Promise<void> = Promise.resolve();

port.on('message', (job: BlockJob) => {
  queue = runAfter(queue, job);
});

async function runAfter(before: Promise<void>, job: BlockJob): Promise<void> {
  await before;
  try {
    send({ kind: 'done', ...(await worker.run(job)) });
  } catch (error) {
    const { code, message, hint, detail } = toHoldfastError(error);
    send({ kind: 'failed', code, message, hint, detail });
  }
}

/**
 * A worker thread of a validation: fetches the blocks of a job in as few ranged reads as possible, the next range while
 * this one is checked. Its buffers are kept from job to job. Damage is part of the answer; only what keeps it from
 * reading ends it.
 */
import { parentPort } from 'node:worker_threads';
import { assert, defined } from '../../foundation/assert.ts';
import { isError } from '../../foundation/errors.ts';
import { FileCiphers } from '../../storage-layout/encryption/key-ring.ts';
import { MACROBLOCK_BYTES, type MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import { type PlannedRead, planReads } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import { tree } from '../../storage-layout/tree.ts';
import { plainError } from '../plain-error.ts';
import { threadSettings } from '../thread-settings.ts';
import { type CipherOfFile, checkBlock, checkDelta, type DecodedDelta } from './check-block.ts';
import type {
  BlockFinding,
  CheckedBlock,
  CheckJob,
  CheckWorkerData,
  CheckWorkerMessage,
} from './check-job.ts';
import { cutOff, missing, type NewFinding } from './findings.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Bytes read along rather than starting another read. */
const MAX_GAP_BYTES = 64 * 1024;

type OpenedFile = { readonly key: string; readonly cipher: CipherOfFile };
const noCipher: CipherOfFile = () => undefined;

type FileRead<Part> = { readonly key: string; readonly read: PlannedRead<Part> };
/** By block; one that has no delta is not in it. */
type Deltas = ReadonlyMap<CheckedBlock, DecodedDelta | 'lost'>;

class CheckWorker {
  readonly #data: CheckWorkerData;
  readonly #medium: Medium;
  readonly #ciphers: FileCiphers;
  readonly #plain = Buffer.allocUnsafeSlow(MACROBLOCK_BYTES);
  readonly #buffers: [Buffer, Buffer] = [
    Buffer.allocUnsafeSlow(READ_BYTES),
    Buffer.allocUnsafeSlow(READ_BYTES),
  ];

  constructor(data: CheckWorkerData, medium: Medium) {
    this.#data = data;
    this.#medium = medium;
    this.#ciphers = new FileCiphers(medium);
  }

  /** Throws the medium's errors other than that a file is missing. */
  async run(job: CheckJob): Promise<CheckWorkerMessage> {
    const findings: BlockFinding[] = [];
    const deltas = await this.#checkDeltas(job, findings);
    let bytes = 0;
    await this.#readAll(job.blocks, ({ key, cipher }, block, record, lost) => {
      const file = defined(job.files[block.file], 'the file of a block');
      bytes += block.plainBytes;
      if (record === undefined) findings.push({ ...lost, whole: true, path: file.path });
      else {
        const delta = deltas.get(block);
        findings.push(...checkBlock(key, record, file, block, delta, this.#data, this.#plain, cipher));
      }
    });
    return { kind: 'done', bytes, blocks: job.blocks.length, findings };
  }

  /** The deltas of the job's blocks: no more than half of their bytes. What is wrong with them goes to `findings`. */
  async #checkDeltas(job: CheckJob, findings: BlockFinding[]): Promise<Deltas> {
    const deltas = new Map<CheckedBlock, DecodedDelta | 'lost'>();
    const parts = job.blocks.flatMap((block) =>
      block.delta === undefined
        ? []
        : [{ ...block.delta, fileNumber: block.fileNumber, blockNumber: block.blockNumber, block }],
    );
    await this.#readAll(parts, ({ key, cipher }, { block, ...delta }, record, lost) => {
      const file = defined(job.files[block.file], 'the file of a block');
      const checked =
        record === undefined
          ? { ...lost, whole: true, path: file.path }
          : checkDelta(key, record, file, delta, cipher);
      if ('bytes' in checked) deltas.set(block, checked);
      else {
        deltas.set(block, 'lost');
        findings.push(checked);
      }
    });
    return deltas;
  }

  /**
   * Hands each part's record to `check`, or undefined with what is to be said of it. The record is overwritten when
   * `check` has returned.
   */
  async #readAll<Part extends MacroBlockPlace>(
    parts: readonly Part[],
    check: (file: OpenedFile, part: Part, record: Buffer | undefined, lost: NewFinding) => void,
  ): Promise<void> {
    const reads = this.#planReads(parts);
    let pending = this.#fetch(reads, 0);
    for (const [index, { key, read }] of reads.entries()) {
      const stored = await pending;
      pending = this.#fetch(reads, index + 1);
      pending.catch(() => undefined); // awaited in the next turn, unless this one fails first
      const lost = await this.#findLoss(key, read, stored);
      const cipher = stored === undefined ? noCipher : await this.#cipherOf(key);
      for (const part of read.entries) {
        const begin = part.offset - read.begin;
        const record = stored?.subarray(begin, begin + part.storedBytes);
        check({ key, cipher }, part, record?.length === part.storedBytes ? record : undefined, lost);
      }
    }
  }

  async #cipherOf(key: string): Promise<CipherOfFile> {
    try {
      const cipher = await this.#ciphers.of(key);
      return () => cipher;
    } catch (error) {
      if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
      return () => {
        throw error;
      };
    }
  }

  /** The ranges of macroblock files that hold `parts`, whole blocks or deltas. */
  #planReads<Part extends MacroBlockPlace>(parts: readonly Part[]): readonly FileRead<Part>[] {
    const byFile = Map.groupBy(parts, (part) => `${part.setId}.${part.subTaskId}`);
    return [...byFile.values()].flatMap((blocks) => {
      const { setId, subTaskId } = defined(blocks[0], 'a group has a member');
      const { clusterName, clusterId, tenantId, fullSetId, partitionGroup } = this.#data;
      const key = tree.macroBlock(
        { clusterName, clusterId },
        { tenantId, fullSetId, setId },
        partitionGroup,
        subTaskId,
      );
      const sorted = blocks.toSorted((a, b) => a.offset - b.offset);
      return planReads(sorted, MAX_GAP_BYTES, READ_BYTES).map((read) => ({ key, read }));
    });
  }

  /** What is to be said of blocks that were not there to be read. */
  async #findLoss(key: string, read: PlannedRead<unknown>, stored: Buffer | undefined): Promise<NewFinding> {
    if (stored === undefined || stored.length === read.end - read.begin) return missing(key);
    const size = (await this.#medium.stat(key))?.sizeBytes;
    return size === undefined ? missing(key) : cutOff(key, size);
  }

  /** Begins the read `index`, if there is one; reads use the two buffers in turn. Undefined: the file is missing. */
  async #fetch(reads: readonly FileRead<unknown>[], index: number): Promise<Buffer | undefined> {
    const next = reads[index];
    if (next === undefined) return undefined;
    const { begin, end } = next.read;
    const which = index % 2 === 0 ? 0 : 1;
    if (this.#buffers[which].length < end - begin) this.#buffers[which] = Buffer.allocUnsafeSlow(end - begin);
    try {
      return await this.#medium.readRange(next.key, begin, end, this.#buffers[which]);
    } catch (error) {
      if (isError(error, 'FILE_NOT_FOUND')) return undefined;
      throw error;
    }
  }
}

const port = parentPort;
assert(port !== null, 'check-worker.ts runs as a worker thread');
// Only check-set.ts starts this file.
const data = await threadSettings<CheckWorkerData>();
const worker = new CheckWorker(data, await openKeyedMedium(data.uri, data.keys));
const send = (message: CheckWorkerMessage) => port.postMessage(message, []);
let queue: Promise<void> = Promise.resolve();

port.on('message', (job: CheckJob) => {
  queue = runAfter(queue, job);
});

async function runAfter(before: Promise<void>, job: CheckJob): Promise<void> {
  await before;
  try {
    send(await worker.run(job));
  } catch (error) {
    send({ kind: 'failed', ...plainError(error) });
  }
}

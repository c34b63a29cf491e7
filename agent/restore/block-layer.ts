/**
 * Lays the blocks of a job: fetches them in as few ranged reads as possible, the next range while this one is
 * decompressed, checks every block and writes it in place. Buffers are kept from job to job. The deltas of an increment's
 * blocks are fetched first, and put onto each block before it is written.
 */
import { defined } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type { FileCipher } from '../../storage-layout/encryption/cipher.ts';
import { FileCiphers } from '../../storage-layout/encryption/key-ring.ts';
import { applyDelta, baseBytes, deltaBytes } from '../../storage-layout/macroblock/delta.ts';
import type { MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import { decodeMacroBlock, type PlannedRead, planReads } from '../../storage-layout/macroblock/reader.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { BlockJob, BlockSource, StoredBlock, TargetFile } from './block-job.ts';
import { TargetFiles } from './target-files.ts';
import { WriteBuffers } from './write-buffers.ts';

const READ_BYTES = 4 * 1024 * 1024;
/** Bytes read along rather than starting another read. */
const MAX_GAP_BYTES = 64 * 1024;

export type LaidBlocks = { readonly bytes: number; readonly blocks: number };
type FileRead<Part> = { readonly key: string; readonly read: PlannedRead<Part> };
type Deltas = ReadonlyMap<StoredBlock, Buffer>;

export class BlockLayer {
  readonly #source: BlockSource;
  readonly #medium: Medium;
  readonly #ciphers: FileCiphers;
  readonly #writeBuffers = new WriteBuffers();
  readonly #readBuffers: [Buffer, Buffer] = [
    Buffer.allocUnsafeSlow(READ_BYTES),
    Buffer.allocUnsafeSlow(READ_BYTES),
  ];

  constructor(source: BlockSource, medium: Medium) {
    this.#source = source;
    this.#medium = medium;
    this.#ciphers = new FileCiphers(medium);
  }

  /**
   * Decodes a job's blocks and begins to write them; `written` resolves when they are. Both throw: DATA_CORRUPT naming file
   * and offset, and the medium's and the file system's errors.
   */
  async lay(job: BlockJob): Promise<{ readonly written: Promise<LaidBlocks> }> {
    const targets = new TargetFiles(this.#source.owner);
    let bytes = 0;
    try {
      const filled = new Set(job.blocks.map((block) => block.file));
      for (const [index, file] of job.files.entries()) if (!filled.has(index)) targets.create(file);
      const deltas = await this.#readDeltas(job);
      const reads = this.#planReads(job.blocks);
      let pending = this.#fetch(reads, 0);
      for (const [index, { key, read }] of reads.entries()) {
        const stored = await pending;
        pending = this.#fetch(reads, index + 1);
        pending.catch(() => undefined); // awaited in the next turn, unless this one fails first
        const cipher = await this.#ciphers.of(key);
        for (const block of read.entries) {
          const file = defined(job.files[block.file], 'the file of a block');
          const record = storedBytes(stored, key, read.begin, block);
          await this.#layBlock(targets, file, block, { record, key, cipher }, deltas.get(block));
          bytes += block.plainBytes;
        }
      }
    } catch (error) {
      await targets.finish().catch(() => undefined); // the first error is the one to show
      throw error;
    }
    const done = { bytes, blocks: job.blocks.length };
    return { written: targets.finish().then(() => done) };
  }

  /** The plain bytes of the job's deltas: no more than half of its blocks' bytes. */
  async #readDeltas(job: BlockJob): Promise<Deltas> {
    const deltas = new Map<StoredBlock, Buffer>();
    const parts = job.blocks.flatMap((block) =>
      block.delta === undefined ? [] : [deltaPart(block, block.delta)],
    );
    for (const { key, read } of this.#planReads(parts)) {
      const range = await this.#medium.readRange(key, read.begin, read.end);
      const cipher = await this.#ciphers.of(key);
      for (const part of read.entries) {
        const record = storedBytes(range, key, read.begin, part);
        const into = Buffer.allocUnsafe(part.plainBytes);
        deltas.set(part.block, decodeMacroBlock(record, part, into, key, cipher));
      }
    }
    return deltas;
  }

  /** The ranges of macroblock files that hold `parts`, whole blocks or deltas. */
  #planReads<Part extends MacroBlockPlace>(parts: readonly Part[]): readonly FileRead<Part>[] {
    const { clusterName, clusterId, tenantId, fullSetId, partitionGroup } = this.#source;
    const byFile = Map.groupBy(parts, (part) => `${part.setId}.${part.subTaskId}`);
    return [...byFile.values()].flatMap((blocks) => {
      const { setId, subTaskId } = defined(blocks[0], 'a group has a member');
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

  /** Begins the read `index`, if there is one; reads use the two buffers in turn. */
  async #fetch(reads: readonly FileRead<StoredBlock>[], index: number): Promise<Buffer> {
    const next = reads[index];
    if (next === undefined) return NOTHING;
    const { begin, end } = next.read;
    let buffer = this.#readBuffers[index % 2 === 0 ? 0 : 1];
    if (buffer.length < end - begin) {
      buffer = Buffer.allocUnsafeSlow(end - begin);
      this.#readBuffers[index % 2 === 0 ? 0 : 1] = buffer;
    }
    return await this.#medium.readRange(next.key, begin, end, buffer);
  }

  /** Decodes one block and begins to write it. */
  async #layBlock(
    targets: TargetFiles,
    file: TargetFile,
    block: StoredBlock,
    stored: { readonly record: Buffer; readonly key: string; readonly cipher: FileCipher | undefined },
    delta: Buffer | undefined,
  ): Promise<void> {
    const buffer = await this.#writeBuffers.take();
    const release = () => this.#writeBuffers.release(buffer);
    try {
      const { record, key, cipher } = stored;
      decodeMacroBlock(record, { ...block, plainBytes: baseBytes(block) }, buffer, key, cipher);
      const pages = block.delta?.pages;
      const change = pages === undefined || delta === undefined ? undefined : { pages, bytes: delta };
      targets.write(file, block.position, applyDelta(buffer, block, change), release);
    } catch (error) {
      release();
      throw error;
    }
  }
}

/** What is to be fetched of a block's delta. */
function deltaPart(block: StoredBlock, delta: NonNullable<StoredBlock['delta']>) {
  const { fileNumber, blockNumber } = block;
  return { ...delta, fileNumber, blockNumber, block, plainBytes: deltaBytes(delta.pages) };
}

/** A block's part of a range that was read from `begin` on. */
function storedBytes(range: Buffer, key: string, begin: number, block: MacroBlockPlace): Buffer {
  const offset = block.offset - begin;
  if (offset + block.storedBytes <= range.length) return range.subarray(offset, offset + block.storedBytes);
  throw new HoldfastError(
    'DATA_CORRUPT',
    `${key} at offset ${block.offset}: the file ends inside a macroblock of ${block.storedBytes} bytes`,
  );
}

const NOTHING = Buffer.alloc(0);

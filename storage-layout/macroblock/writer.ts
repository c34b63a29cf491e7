/**
 * A macroblock file: file header, a macroBlockFile record, at most 512 macroBlock records, an end mark. Made for worker
 * threads: blocks are coded synchronously into one of two 4 MiB buffers, and one of them is being written while the other
 * is filled. The buffers are kept for the thread's next file.
 */
import { assert } from '../../foundation/assert.ts';
import { crc32c } from '../crc32c.ts';
import { type FileCipher, type Seal, sealOf } from '../encryption/cipher.ts';
import { beginFile } from '../encryption/key-ring.ts';
import type { Medium, StoredFileWriter } from '../media/medium.ts';
import { encodeFileEnd, encodeRecord, putRecord, RECORD, recordBytes } from '../records/framing.ts';
import { BlockCompressor, type Compression } from './compress.ts';
import {
  encodeBlockName,
  MACROBLOCK_BYTES,
  MAX_MACROBLOCKS_PER_FILE,
  type MacroBlockName,
  type MacroBlockPlace,
} from './entry.ts';
import type { MacroBlockFileName } from './file-name.ts';

const BATCH_BYTES = 4 * 1024 * 1024;
const KEPT_BUFFERS = 4;
const keptBuffers: Buffer[] = [];

/** Where an appended block went; spread into its index entry. */
export type AppendedMacroBlock = MacroBlockPlace & MacroBlockName & { readonly plainBytes: number };

export class MacroBlockFileWriter implements AsyncDisposable {
  readonly #file: StoredFileWriter;
  readonly #name: MacroBlockFileName;
  readonly #compressor: BlockCompressor;
  readonly #cipher: FileCipher | undefined;
  #batch: Buffer = takeBuffer();
  #batchBytes = 0;
  #spare: Buffer | undefined = takeBuffer();
  /** The write of the other buffer; it is awaited before that buffer is filled again. */
  #inFlight: Promise<void> | undefined;
  #sizeBytes = 0;
  #recordCount = 0;
  #blockCount = 0;

  private constructor(
    file: StoredFileWriter,
    name: MacroBlockFileName,
    compressor: BlockCompressor,
    cipher: FileCipher | undefined,
  ) {
    this.#file = file;
    this.#name = name;
    this.#compressor = compressor;
    this.#cipher = cipher;
  }

  /** Begins the file. Throws FILE_EXISTS: a retry takes new sub task ids. Disposing without `close` abandons it. */
  static async create(
    medium: Medium,
    key: string,
    name: MacroBlockFileName,
    compression: Compression,
    signal?: AbortSignal,
  ): Promise<MacroBlockFileWriter> {
    const { header, cipher } = await beginFile(medium, key, RECORD.macroBlock, signal);
    const file = await medium.createFile(key, signal);
    const writer = new MacroBlockFileWriter(file, name, new BlockCompressor(compression), cipher);
    await writer.#append(header);
    await writer.#append(
      encodeRecord({ type: RECORD.macroBlockFile, payload: name.info, seal: writer.#seal() }),
    );
    return writer;
  }

  /** Bytes of the file so far. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get blockCount(): number {
    return this.#blockCount;
  }

  get isFull(): boolean {
    return this.#blockCount === MAX_MACROBLOCKS_PER_FILE;
  }

  /**
   * Appends one macroblock, 1 byte to 2 MiB, or its delta; `plain` may be reused when the promise has resolved. `name`:
   * whose it is; an encrypted record says so too. Rejects when this or an earlier block could not be written: the file is
   * then lost.
   */
  async append(plain: Uint8Array, name: MacroBlockName): Promise<AppendedMacroBlock> {
    assert(plain.length > 0 && plain.length <= MACROBLOCK_BYTES, 'a macroblock has 1 byte to 2 MiB');
    assert(!this.isFull, 'a macroblock file has at most 512 macroblocks');
    const { data, codec } = this.#compressor.compress(plain);
    const record = {
      type: RECORD.macroBlock,
      compression: codec,
      plainBytes: plain.length,
      data,
      extension: this.#cipher === undefined ? NOTHING : encodeBlockName(name),
      seal: this.#seal(),
    };
    const storedBytes = recordBytes(record);
    await this.#reserve(storedBytes);
    const codedCrc32c = putRecord(this.#batch, this.#batchBytes, record);
    const offset = this.#sizeBytes;
    this.#count(storedBytes);
    this.#blockCount += 1;
    const isStoredPlain = codec === 'none' && record.seal === undefined;
    return {
      fileNumber: name.fileNumber,
      blockNumber: name.blockNumber,
      setId: this.#name.setId,
      subTaskId: this.#name.subTaskId,
      offset,
      storedBytes,
      plainBytes: plain.length,
      crc32c: isStoredPlain ? codedCrc32c : crc32c(plain),
      compression: codec,
    };
  }

  /** Writes the end mark and makes the file durable. */
  async close(): Promise<{ readonly sizeBytes: number; readonly blockCount: number }> {
    const end = { recordCount: this.#recordCount, sizeBytes: this.#sizeBytes };
    await this.#append(encodeFileEnd(end, this.#seal()));
    await this.#flush();
    await this.#inFlight;
    await this.#file.close();
    return { sizeBytes: this.#sizeBytes, blockCount: this.#blockCount };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#inFlight?.catch(() => undefined); // append or close reported it, or the file is abandoned
    await this.#file[Symbol.asyncDispose]();
    if (this.#spare === undefined) return;
    giveBack(this.#batch);
    giveBack(this.#spare);
    this.#spare = undefined;
  }

  /** Of the next record. */
  #seal(): Seal | undefined {
    return sealOf(this.#cipher, this.#recordCount);
  }

  async #append(record: Buffer): Promise<void> {
    await this.#reserve(record.length);
    this.#batch.set(record, this.#batchBytes);
    this.#count(record.length);
  }

  #count(bytes: number): void {
    this.#batchBytes += bytes;
    this.#sizeBytes += bytes;
    this.#recordCount += 1;
  }

  /** Makes room for `bytes` in the batch. */
  async #reserve(bytes: number): Promise<void> {
    if (this.#batchBytes + bytes > this.#batch.length) await this.#flush();
  }

  /** Waits for the write before, starts this batch's and takes the other buffer. */
  async #flush(): Promise<void> {
    await this.#inFlight;
    const other = this.#spare;
    assert(other !== undefined, 'a disposed macroblock file is not written to');
    const write = this.#file.write([this.#batch.subarray(0, this.#batchBytes)]);
    write.catch(() => undefined); // whoever awaits #inFlight sees the error; until then it is nobody's
    this.#inFlight = write;
    this.#spare = this.#batch;
    this.#batch = other;
    this.#batchBytes = 0;
  }
}

const NOTHING = Buffer.alloc(0);

function takeBuffer(): Buffer {
  return keptBuffers.pop() ?? Buffer.allocUnsafeSlow(BATCH_BYTES);
}

function giveBack(buffer: Buffer): void {
  if (keptBuffers.length < KEPT_BUFFERS) keptBuffers.push(buffer);
}

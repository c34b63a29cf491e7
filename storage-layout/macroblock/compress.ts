/**
 * zstd in one call per block, with one context and one output buffer for all of them. zlib's own zstdCompressSync makes a
 * context and a buffer per call, and the page faults of those cost more than a third of the time: 280 against 476 MiB/s
 * at level 1, 500 against 1650 MiB/s for decompression (2 MiB blocks of table rows, one core).
 *
 * The stream object's handle is driven directly (`writeSync` into a buffer of ours, then the frame is whole). Its `reset`
 * is never called: it forgets the level. After an error the context is thrown away.
 */
import { constants, createZstdCompress, createZstdDecompress } from 'node:zlib';
import { HoldfastError } from '../../foundation/errors.ts';
import type { CompressionName } from '../records/header.ts';

/** `none`, or zstd at a level from 1 to 19. */
export type Compression = 'none' | `zstd:${number}`;

/** What is compressed: data pages, or the log of a server. */
export type Content = 'pages' | 'log';

/**
 * Level 1 looks for matches of 7 bytes and more through a table that overflows the first-level cache. The log is made of
 * small records like the ones just before them: matches of 5 bytes through a table of half the size give 4 to 5 % less at
 * the same speed or a little more (bulk loads, small transactions, page images; one core). Higher levels gain nothing by
 * such matches, nor any by a larger window, long-distance matching or blocks beyond 1 MiB: that is where the log repeats itself.
 */
const LOG_AT_LEVEL_1 = { [constants.ZSTD_c_minMatch]: 5, [constants.ZSTD_c_hashLog]: 13 } as const;

/**
 * zstd's tables for inputs above 256 KiB overflow the second-level cache, and pages, and their log, repeat themselves nearby:
 * what was seen long ago only takes the place of what comes again. With half of the table level 1 takes 0.9 of the time that
 * it takes with zstd's own. With a quarter of the table of long matches and a sixteenth (a thirty-second) of that of short
 * ones levels 3 and 4 take 0.75 and 0.7 of it, and for log 0.7. What is stored is 1 % less on average (log at levels 3 and
 * 4: 3 %), at most 2 % more, 3 % at level 1 (17 relations: rows of many kinds, their indexes; bulk loads, small
 * transactions, page images; one core). Level 2 loses a fifth of dense rows by it; higher levels look farther for their gain.
 */
const TABLES_AT_LEVEL: Readonly<Record<number, Readonly<Record<number, number>>>> = {
  1: { [constants.ZSTD_c_hashLog]: 13 },
  3: { [constants.ZSTD_c_hashLog]: 15, [constants.ZSTD_c_chainLog]: 12 },
  4: { [constants.ZSTD_c_hashLog]: 16, [constants.ZSTD_c_chainLog]: 13 },
};

/** Stored as it is when compression saves less than a twentieth. */
const WORTHWHILE = 0.95;

/** Reads `none` or `zstd:1` … `zstd:19`. Throws INVALID_ARGUMENT. */
export function parseCompression(text: string): Compression {
  const level = /^zstd:([1-9]|1[0-9])$/.exec(text)?.[1];
  if (text === 'none') return 'none';
  if (level !== undefined) return `zstd:${Number(level)}`;
  throw new HoldfastError('INVALID_ARGUMENT', `not a compression: "${text}"`, {
    hint: 'Write none, or zstd:1 to zstd:19.',
  });
}

/** Compresses block after block. Not to be shared by concurrent users: each call reuses the previous one's output. */
export class BlockCompressor {
  readonly #context: ZstdContext | undefined;
  #output: Buffer = NOTHING;

  constructor(compression: Compression, content: Content = 'pages') {
    const level = compression === 'none' ? undefined : Number(compression.slice('zstd:'.length));
    if (level === undefined) return;
    const params = { [constants.ZSTD_c_compressionLevel]: level, ...tuningOf(level, content) };
    this.#context = new ZstdContext(() => createZstdCompress({ params }));
  }

  /** `data` is valid until the next call; it is `plain` itself when compression does not pay (codec `none`). */
  compress(plain: Uint8Array): { readonly data: Uint8Array; readonly codec: CompressionName } {
    if (this.#context === undefined || plain.length === 0) return { data: plain, codec: 'none' };
    const boundBytes = compressBoundBytes(plain.length);
    if (this.#output.length < boundBytes) this.#output = Buffer.allocUnsafeSlow(boundBytes);
    const sizeBytes = this.#context.run(plain, this.#output);
    if (sizeBytes === undefined || sizeBytes > plain.length * WORTHWHILE)
      return { data: plain, codec: 'none' };
    return { data: this.#output.subarray(0, sizeBytes), codec: 'zstd' };
  }
}

function tuningOf(level: number, content: Content): Readonly<Record<number, number>> {
  return level === 1 && content === 'log' ? LOG_AT_LEVEL_1 : (TABLES_AT_LEVEL[level] ?? {});
}

/** Decompresses block after block into buffers of the caller's. */
export class BlockDecompressor {
  readonly #context = new ZstdContext(() => createZstdDecompress());

  /** Fills `into`, whose length is the block's own, from one zstd frame. False when the frame is damaged or has another length. */
  decompress(coded: Uint8Array, into: Uint8Array): boolean {
    if (this.#context.run(coded, into) === into.length) return true;
    // A damaged frame before this one can have left the context inside it: a fresh one decides.
    this.#context.discard();
    if (this.#context.run(coded, into) === into.length) return true;
    this.#context.discard();
    return false;
  }
}

/** The parts of a zlib stream object that one synchronous call needs (lib/zlib.js of Node 24). */
type ZlibStream = {
  readonly _handle: {
    onerror: (message: string, errno: number, code: string) => void;
    writeSync(
      flush: number,
      input: Uint8Array,
      inputOffset: number,
      inputBytes: number,
      output: Uint8Array,
      outputOffset: number,
      outputBytes: number,
    ): void;
    close(): void;
  };
  /** After a call: output space left, input bytes left. */
  readonly _writeState: Uint32Array;
};

class ZstdContext {
  readonly #create: () => unknown;
  #stream: ZlibStream | undefined;
  #hasFailed = false;

  constructor(create: () => unknown) {
    this.#create = create;
  }

  /** Codes the whole of `input` into `output`. Returns the bytes written, undefined when it failed or did not fit. */
  run(input: Uint8Array, output: Uint8Array): number | undefined {
    this.#stream ??= this.#open();
    const { _handle: handle, _writeState: state } = this.#stream;
    this.#hasFailed = false;
    handle.writeSync(constants.ZSTD_e_end, input, 0, input.length, output, 0, output.length);
    const [outputLeft, inputLeft] = state;
    if (this.#hasFailed || outputLeft === undefined || inputLeft !== 0) {
      this.discard();
      return undefined;
    }
    return output.length - outputLeft;
  }

  /** The next call begins with a new context. */
  discard(): void {
    this.#stream?._handle.close();
    this.#stream = undefined;
  }

  #open(): ZlibStream {
    // Node has no public call that codes into a given buffer; the tests of this file fail if these internals move.
    const stream = this.#create() as ZlibStream;
    // oxlint-disable-next-line unicorn/prefer-add-event-listener -- a handle is no event target
    stream._handle.onerror = () => {
      this.#hasFailed = true;
    };
    return stream;
  }
}

/** zstd's own bound (ZSTD_COMPRESSBOUND): with so much space, a frame is always written in one pass. */
function compressBoundBytes(plainBytes: number): number {
  return plainBytes + (plainBytes >>> 8) + (plainBytes < 131_072 ? (131_072 - plainBytes) >>> 11 : 0) + 64;
}

const NOTHING = Buffer.alloc(0);

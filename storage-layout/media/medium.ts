/**
 * What Holdfast asks of any store. `media/file`, `media/s3` and `media/nfs` implement it; each passes the same contract
 * suite. Keys are '/'-separated paths relative to the medium's root, as `tree.ts` builds them: no leading slash, no `.`
 * or `..`. Every failure is a HoldfastError: DESTINATION_IO or DESTINATION_FULL (may be tried again), FILE_NOT_FOUND,
 * FILE_EXISTS; its message names the key, its cause is the store's own error.
 */
import type { KeyRing } from '../encryption/key-ring.ts';

export type MediumCapabilities = {
  /** `createExclusive` is refused by the store itself when the key exists. */
  readonly exclusive: boolean;
  /** Files can be appended to: log files grow in place. */
  readonly append: boolean;
};

export type StoredFile = { readonly key: string; readonly sizeBytes: number; readonly modifiedMs: number };

/** A file being written once, from front to end. Nothing is promised to be there before `close` has resolved. */
export interface StoredFileWriter extends AsyncDisposable {
  /** Appends `chunks` in order. The buffers may be reused when the promise has resolved. */
  write(chunks: readonly Uint8Array[]): Promise<void>;
  /** Makes all that was written durable, the name too. */
  close(): Promise<void>;
  /** Disposing without `close` abandons the file: it may stay, incomplete, as garbage under its key. */
}

/** A file that grows in place (only where `capabilities.append`). */
export interface AppendableFile extends AsyncDisposable {
  readonly sizeBytes: number;
  /** Appends and makes durable: when it resolves, the bytes survive a power cut. After a failure the file must not be used again. */
  append(chunks: readonly Uint8Array[]): Promise<void>;
}

export interface Medium extends AsyncDisposable {
  /** For people and logs: the URI with its secrets masked. */
  readonly displayUri: string;
  readonly capabilities: MediumCapabilities;
  /** The keys of encrypted files (with-keys.ts); undefined: none is known, and new files are plain. */
  readonly keys?: KeyRing | undefined;
  /** The whole file. Files read this way are at most 64 MiB; longer ones are refused. */
  read(key: string, signal?: AbortSignal): Promise<Buffer>;
  /** Bytes [begin, end) of the file; fewer when the file is shorter. `into` is filled and its prefix returned, when given. */
  readRange(key: string, begin: number, end: number, into?: Buffer, signal?: AbortSignal): Promise<Buffer>;
  /** Creates the file with these bytes, durably, if the key is free; throws FILE_EXISTS if it is not. */
  createExclusive(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Puts these bytes under the key in one atomic act, durably, whether or not it existed. For summaries. */
  replace(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void>;
  /** Begins a new file; throws FILE_EXISTS if the key is taken. */
  createFile(key: string, signal?: AbortSignal): Promise<StoredFileWriter>;
  /**
   * Makes `to` a durable copy of `from`, at the store itself where it can; otherwise the bytes go through this process, and
   * `onPart` is awaited behind each part of them. Throws FILE_NOT_FOUND, and FILE_EXISTS if the key `to` is taken. When it
   * fails, a part may stay under `to` as garbage.
   */
  copyFile(
    from: string,
    to: string,
    onPart: (bytes: number) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void>;
  /** Begins a new appendable file; throws FILE_EXISTS if the key is taken, NOT_SUPPORTED without `capabilities.append`. */
  createAppendable(key: string, signal?: AbortSignal): Promise<AppendableFile>;
  /**
   * Makes all that anyone has written to the file so far durable: a writer that died may have left bytes which can be read
   * and would not survive a power cut. Throws FILE_NOT_FOUND.
   */
  makeDurable(key: string, signal?: AbortSignal): Promise<void>;
  /** Every file whose key starts with `prefix` (a whole path component or ''), in no promised order; each page is at most 1,000 files. */
  list(prefix: string, signal?: AbortSignal): AsyncIterable<readonly StoredFile[]>;
  /** The names directly below `prefix`, files and directories: for finding ids without listing all below them. */
  listNames(prefix: string, signal?: AbortSignal): Promise<readonly string[]>;
  /** Undefined when there is no such file. */
  stat(key: string, signal?: AbortSignal): Promise<StoredFile | undefined>;
  /** Deletes each; a key that is not there is no error. */
  deleteMany(keys: readonly string[], signal?: AbortSignal): Promise<void>;
  /** Bytes free for writing, where the medium knows. */
  freeBytes(signal?: AbortSignal): Promise<number | undefined>;
}

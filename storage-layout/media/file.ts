/**
 * A directory as a medium, as a rule a mounted NFS share.
 *
 * - The root directory must exist, and go on existing: while a share is away, it is an error to write and to look, and no
 *   file is said to be missing.
 * - What is created is durable before it is reported: the file is fsynced, then its directory, and every directory made
 *   on the way.
 * - `createExclusive` writes a temporary file, fsyncs it and links it to its name: a reader sees all of it or nothing.
 * - Temporary names begin with `.tmp-`; names that begin with a dot (those, and `.nfs…`) are never listed.
 */
import { randomUUID } from 'node:crypto';
import {
  type FileHandle,
  link,
  mkdir,
  open,
  opendir,
  readdir,
  rename,
  stat,
  statfs,
  unlink,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { cloneFile, copyBytes } from './copy-bytes.ts';
import { checkKey } from './keys.ts';
import type { AppendableFile, Medium, MediumCapabilities, StoredFile, StoredFileWriter } from './medium.ts';

const READ_WHOLE_LIMIT_BYTES = 64 * 2 ** 20;
const WRITE_BUFFER_BYTES = 256 * 1024;
const LIST_PAGE_FILES = 1000;
const STAT_CONCURRENCY = 32;
const TEMPORARY_PREFIX = '.tmp-';

/** Opens the directory. Throws INVALID_BACKUP_DEST when it is not there or is no directory. */
export async function openFileMedium(directory: string, signal?: AbortSignal): Promise<Medium> {
  signal?.throwIfAborted();
  const found = await stat(directory).catch((error: unknown) => {
    throw new HoldfastError('INVALID_BACKUP_DEST', `cannot open the destination file://${directory}`, {
      cause: error,
      detail: errorText(error),
      hint: 'Create the directory or mount the share first.',
    });
  });
  if (!found.isDirectory())
    throw new HoldfastError('INVALID_BACKUP_DEST', `the destination file://${directory} is not a directory`);
  return new FileMedium(directory);
}

class FileMedium implements Medium {
  readonly capabilities: MediumCapabilities = { exclusive: true, append: true };
  readonly displayUri: string;
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
    this.displayUri = `file://${root}`;
  }

  async read(key: string, signal?: AbortSignal): Promise<Buffer> {
    const path = this.#path(key, signal);
    return await this.#translated('read', key, async () => {
      await using file = await open(path, 'r');
      const { size } = await file.stat();
      if (size > READ_WHOLE_LIMIT_BYTES) {
        throw new HoldfastError('DATA_CORRUPT', `${key} has ${size} bytes: too long to be read whole`);
      }
      return await readFully(file, Buffer.allocUnsafeSlow(size), 0);
    });
  }

  async readRange(
    key: string,
    begin: number,
    end: number,
    into?: Buffer,
    signal?: AbortSignal,
  ): Promise<Buffer> {
    const path = this.#path(key, signal);
    return await this.#translated('read', key, async () => {
      await using file = await open(path, 'r');
      const length = end - begin;
      const target = into === undefined ? Buffer.allocUnsafeSlow(length) : into.subarray(0, length);
      return await readFully(file, target, begin);
    });
  }

  async createExclusive(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void> {
    const path = this.#path(key, signal);
    await this.#translated('create', key, async () => {
      const temporary = await this.#writeTemporary(path, data);
      try {
        await link(temporary, path).catch(async (error: unknown) => {
          // On NFS a link whose answer was lost is sent again and meets itself: the link count tells.
          if (errnoOf(error) !== 'EEXIST' || (await stat(temporary)).nlink !== 2) throw error;
        });
      } finally {
        await unlink(temporary).catch(() => undefined); // an unlisted leftover harms nobody
      }
      await syncDirectory(dirname(path));
    });
  }

  async replace(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void> {
    const path = this.#path(key, signal);
    await this.#translated('replace', key, async () => {
      const temporary = await this.#writeTemporary(path, data);
      try {
        await rename(temporary, path);
      } catch (error) {
        await unlink(temporary).catch(() => undefined); // an unlisted leftover harms nobody
        throw error;
      }
      await syncDirectory(dirname(path));
    });
  }

  async createFile(key: string, signal?: AbortSignal): Promise<StoredFileWriter> {
    const path = this.#path(key, signal);
    return await this.#translated(
      'create',
      key,
      async () => new FileWriter(key, path, await this.#create(path)),
    );
  }

  async copyFile(
    from: string,
    to: string,
    onPart: (bytes: number) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    const [source, target] = [this.#path(from, signal), this.#path(to, signal)];
    if (await cloneFile(source, target)) {
      await this.makeDurable(to, signal);
      return;
    }
    await copyBytes(this, from, to, onPart, signal);
  }

  async createAppendable(key: string, signal?: AbortSignal): Promise<AppendableFile> {
    const path = this.#path(key, signal);
    return await this.#translated('create', key, async () => {
      const file = await this.#create(path);
      try {
        await syncDirectory(dirname(path));
      } catch (error) {
        await file.close().catch(() => undefined); // the first error is the one to show
        throw error;
      }
      return new GrowingFile(key, path, file);
    });
  }

  async makeDurable(key: string, signal?: AbortSignal): Promise<void> {
    const path = this.#path(key, signal);
    await this.#translated('make durable', key, async () => {
      await using file = await open(path, 'r');
      await file.sync();
      await syncDirectory(dirname(path));
    });
  }

  async *list(prefix: string, signal?: AbortSignal): AsyncIterable<readonly StoredFile[]> {
    const pending = [prefix];
    let page: StoredFile[] = [];
    for (let directory = pending.pop(); directory !== undefined; directory = pending.pop()) {
      const path = directory === '' ? this.#root : this.#path(directory, signal);
      const entries = await this.#namesIn(directory, path, signal);
      const keyOf = (name: string) => (directory === '' ? name : `${directory}/${name}`);
      pending.push(...entries.filter((entry) => entry.isDirectory).map((entry) => keyOf(entry.name)));
      const keys = entries.filter((entry) => !entry.isDirectory).map((entry) => keyOf(entry.name));
      for (let first = 0; first < keys.length; first += STAT_CONCURRENCY) {
        const batch = keys.slice(first, first + STAT_CONCURRENCY);
        const files = await Promise.all(batch.map(async (key) => await this.stat(key, signal)));
        page.push(...files.filter((file) => file !== undefined)); // undefined: deleted meanwhile
        if (page.length + STAT_CONCURRENCY <= LIST_PAGE_FILES) continue;
        yield page;
        page = [];
      }
    }
    if (page.length > 0) yield page;
  }

  async listNames(prefix: string, signal?: AbortSignal): Promise<readonly string[]> {
    const path = prefix === '' ? this.#root : this.#path(prefix, signal);
    return await this.#translated('list', prefix, async () => {
      try {
        return (await readdir(path)).filter((name) => !name.startsWith('.'));
      } catch (error) {
        if (!isAbsence(error)) throw error;
        await this.#checkRoot();
        return [];
      }
    });
  }

  async stat(key: string, signal?: AbortSignal): Promise<StoredFile | undefined> {
    const path = this.#path(key, signal);
    return await this.#translated('stat', key, async () => {
      try {
        const found = await stat(path);
        return found.isFile() ? { key, sizeBytes: found.size, modifiedMs: found.mtimeMs } : undefined;
      } catch (error) {
        if (!isAbsence(error)) throw error;
        await this.#checkRoot();
        return undefined;
      }
    });
  }

  async deleteMany(keys: readonly string[], signal?: AbortSignal): Promise<void> {
    for (const key of keys) {
      const path = this.#path(key, signal);
      await this.#translated('delete', key, async () => {
        await unlink(path).catch(async (error: unknown) => {
          if (!isAbsence(error)) throw error;
          await this.#checkRoot();
        });
      });
    }
  }

  async freeBytes(signal?: AbortSignal): Promise<number | undefined> {
    signal?.throwIfAborted();
    return await this.#translated('measure', this.displayUri, async () => {
      const { bavail, bsize } = await statfs(this.#root);
      return bavail * bsize;
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // nothing is held open
  }

  #path(key: string, signal: AbortSignal | undefined): string {
    signal?.throwIfAborted();
    checkKey(key);
    return join(this.#root, key);
  }

  /** As `translated`, but a file is missing only while the root is there. */
  async #translated<T>(verb: string, key: string, act: () => Promise<T>): Promise<T> {
    try {
      return await translated(verb, key, act);
    } catch (error) {
      if (isError(error, 'FILE_NOT_FOUND')) await this.#checkRoot();
      throw error;
    }
  }

  /** Throws DESTINATION_IO when the root has gone: what is not there is only said of a share that is mounted. */
  async #checkRoot(): Promise<void> {
    await stat(this.#root).catch((error: unknown) => {
      throw new HoldfastError('DESTINATION_IO', `the destination ${this.displayUri} is not there`, {
        cause: error,
        detail: errorText(error),
        hint: 'Mount the share, or bring the directory back.',
      });
    });
  }

  /** Names of a directory with their kind; none when it is not there. */
  async #namesIn(
    key: string,
    path: string,
    signal: AbortSignal | undefined,
  ): Promise<readonly { readonly name: string; readonly isDirectory: boolean }[]> {
    signal?.throwIfAborted();
    return await this.#translated('list', key, async () => {
      try {
        const found: { name: string; isDirectory: boolean }[] = [];
        for await (const entry of await opendir(path, { bufferSize: LIST_PAGE_FILES })) {
          if (!entry.name.startsWith('.')) found.push({ name: entry.name, isDirectory: entry.isDirectory() });
        }
        return found;
      } catch (error) {
        if (!isAbsence(error)) throw error;
        await this.#checkRoot();
        return [];
      }
    });
  }

  async #create(path: string): Promise<FileHandle> {
    try {
      return await open(path, 'wx');
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      await this.#makeDirectory(dirname(path));
      return await open(path, 'wx');
    }
  }

  /** Makes the directory and those above it, but never the root, and makes the new names durable, whoever made them. */
  async #makeDirectory(path: string): Promise<void> {
    if (path === this.#root || !path.startsWith(this.#root)) return;
    try {
      await makeOneDirectory(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
      await this.#makeDirectory(dirname(path));
      await makeOneDirectory(path);
    }
    await syncDirectory(dirname(path));
  }

  async #writeTemporary(path: string, data: Uint8Array): Promise<string> {
    const temporary = join(dirname(path), `${TEMPORARY_PREFIX}${basename(path)}-${randomUUID()}`);
    const file = await this.#create(temporary);
    try {
      await using held = file;
      await writeFully(held, [data]);
      await held.sync();
    } catch (error) {
      await unlink(temporary).catch(() => undefined); // the first error is the one to show
      throw error;
    }
    return temporary;
  }
}

/** Gathers small chunks, so that a file of many small records costs few calls. */
class FileWriter implements StoredFileWriter {
  readonly #key: string;
  readonly #path: string;
  readonly #file: FileHandle;
  #gathered: Buffer | undefined;
  #gatheredBytes = 0;
  #isOpen = true;

  constructor(key: string, path: string, file: FileHandle) {
    this.#key = key;
    this.#path = path;
    this.#file = file;
  }

  async write(chunks: readonly Uint8Array[]): Promise<void> {
    const sizeBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    if (this.#gatheredBytes + sizeBytes <= WRITE_BUFFER_BYTES) {
      this.#gathered ??= Buffer.allocUnsafeSlow(WRITE_BUFFER_BYTES);
      for (const chunk of chunks) {
        this.#gathered.set(chunk, this.#gatheredBytes);
        this.#gatheredBytes += chunk.length;
      }
      return;
    }
    await translated('write', this.#key, async () => {
      await writeFully(this.#file, [...this.#takeGathered(), ...chunks]);
    });
  }

  async close(): Promise<void> {
    if (!this.#isOpen) return;
    await translated('write', this.#key, async () => {
      await writeFully(this.#file, this.#takeGathered());
      await this.#file.sync();
      this.#isOpen = false;
      await this.#file.close();
      await syncDirectory(dirname(this.#path));
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    await this.#file.close().catch(() => undefined); // abandoned: its content counts for nothing
  }

  #takeGathered(): readonly Uint8Array[] {
    const sizeBytes = this.#gatheredBytes;
    this.#gatheredBytes = 0;
    return this.#gathered === undefined || sizeBytes === 0 ? [] : [this.#gathered.subarray(0, sizeBytes)];
  }
}

/**
 * A file that grows through one open handle. A handle outlives its name (a share unmounted lazily, a tree moved or
 * removed), and bytes that no reader will find are not durable: each append ends by finding the file under its name.
 */
class GrowingFile implements AppendableFile {
  readonly #key: string;
  readonly #path: string;
  readonly #file: FileHandle;
  #sizeBytes = 0;

  constructor(key: string, path: string, file: FileHandle) {
    this.#key = key;
    this.#path = path;
    this.#file = file;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  async append(chunks: readonly Uint8Array[]): Promise<void> {
    await translated('append to', this.#key, async () => {
      await writeFully(this.#file, chunks);
      await this.#file.datasync();
      await this.#checkName();
      this.#sizeBytes += chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    });
  }

  async #checkName(): Promise<void> {
    const named = await stat(this.#path).catch((error: unknown) => {
      if (isAbsence(error)) return undefined;
      throw error;
    });
    const opened = await this.#file.stat();
    if (named?.ino === opened.ino && named.dev === opened.dev) return;
    throw new HoldfastError(
      'DESTINATION_IO',
      `cannot append to ${this.#key}: it is no longer under its name`,
      {
        hint: 'Was the share unmounted, or the destination moved or removed? Bring it back.',
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await translated('close', this.#key, () => this.#file.close());
  }
}

/** Writes all of `chunks` at the file's position, however many calls it takes. */
async function writeFully(file: FileHandle, chunks: readonly Uint8Array[]): Promise<void> {
  let pending = chunks.filter((chunk) => chunk.length > 0);
  while (pending.length > 0) {
    let { bytesWritten } = await file.writev(pending);
    if (bytesWritten === 0) throw new Error('the file system wrote nothing and gave no error');
    while (pending[0] !== undefined && bytesWritten >= pending[0].length) {
      bytesWritten -= pending[0].length;
      pending = pending.slice(1);
    }
    if (pending[0] !== undefined && bytesWritten > 0)
      pending = [pending[0].subarray(bytesWritten), ...pending.slice(1)];
  }
}

/** Fills `target` from `position` on, and returns the part that the file could fill. */
async function readFully(file: FileHandle, target: Buffer, position: number): Promise<Buffer> {
  let filled = 0;
  while (filled < target.length) {
    const { bytesRead } = await file.read(target, filled, target.length - filled, position + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return target.subarray(0, filled);
}

/** The errors that say that a name is not there. */
function isAbsence(error: unknown): boolean {
  return errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR';
}

async function makeOneDirectory(path: string): Promise<void> {
  await mkdir(path).catch((error: unknown) => {
    if (errnoOf(error) !== 'EEXIST') throw error;
  });
}

async function syncDirectory(path: string): Promise<void> {
  await using directory = await open(path, 'r');
  await directory.sync();
}

/** Runs `act` and turns the file system's errors into ours. */
async function translated<T>(verb: string, key: string, act: () => Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    const options = { cause: error, detail: errorText(error) };
    switch (errnoOf(error)) {
      case 'ENOENT':
      case 'ENOTDIR':
        throw new HoldfastError('FILE_NOT_FOUND', `cannot ${verb} ${key}: no such file`, options);
      case 'EEXIST':
        throw new HoldfastError('FILE_EXISTS', `cannot ${verb} ${key}: it exists`, options);
      case 'ENOSPC':
      case 'EDQUOT':
      case 'EFBIG':
        throw new HoldfastError('DESTINATION_FULL', `cannot ${verb} ${key}: no space`, options);
      default:
        throw new HoldfastError('DESTINATION_IO', `cannot ${verb} ${key}: ${errorText(error)}`, options);
    }
  }
}

function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

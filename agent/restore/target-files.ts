/**
 * Writes the blocks of one job into the files of the restored directory, several at a time.
 *
 * Large files are written past the page cache (O_DIRECT): the disk is busy from the first block on, the sync at the end
 * finds little to do, no processor time goes into copies, and what this host's other servers have cached stays cached.
 * Such writes begin and end on multiples of ALIGNMENT_BYTES, in the file and in memory; what does not, small files, and
 * all files of a file system that refuses them go through the page cache, and large parts are written back at their end.
 *
 * Nothing here promises durability: the sync at the end of the restore does (durability.ts).
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  openSync,
  write,
  writeSync,
} from 'node:fs';
import { promisify } from 'node:util';
import type { BlockSource, TargetFile } from './block-job.ts';

type Owner = BlockSource['owner'];

/** No disk has larger sectors, and PostgreSQL's pages are multiples of it. */
const ALIGNMENT_BYTES = 4096;
/** Smaller files are left to the page cache: the kernel gathers many of them into one write. */
const DIRECT_FILE_BYTES = 1024 * 1024;
/** A job's part of a file that is worth a write-back of its own, when it went through the page cache. */
const WRITE_BACK_BYTES = 4 * 1024 * 1024;

const FLAGS = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW;

const writeAsync = promisify(write);
const syncData = promisify(fdatasync);

/** The files of one job: blocks come in file order, so one is open for new writes. */
export class TargetFiles {
  readonly #owner: Owner;
  readonly #pending: Promise<void>[] = [];
  #open: { readonly file: TargetFile; readonly target: OpenTarget } | undefined;

  constructor(owner: Owner) {
    this.#owner = owner;
  }

  /** Creates the file with its size, mode and owner, on first sight. */
  create(file: TargetFile): void {
    this.#target(file);
  }

  /** Begins to write all of `data` at `position`; `data` is free again when `onWritten` is called, written or not. */
  write(file: TargetFile, position: number, data: Buffer, onWritten: () => void): void {
    this.#keep(this.#target(file).write(data, position).finally(onWritten));
  }

  /** Resolves when everything is written and closed. Throws the file system's errors. */
  async finish(): Promise<void> {
    this.#close();
    await Promise.all(this.#pending);
  }

  #target(file: TargetFile): OpenTarget {
    if (this.#open?.file === file) return this.#open.target;
    this.#close();
    this.#open = { file, target: new OpenTarget(file, this.#owner) };
    return this.#open.target;
  }

  #close(): void {
    if (this.#open !== undefined) this.#keep(this.#open.target.close());
    this.#open = undefined;
  }

  #keep(pending: Promise<void>): void {
    pending.catch(() => undefined); // `finish` throws it; until then it is nobody's
    this.#pending.push(pending);
  }
}

/** One file, open until `close` was called and every write has ended. */
class OpenTarget {
  readonly #file: TargetFile;
  readonly #descriptor: number;
  readonly #isDirect: boolean;
  readonly #directWrites: Promise<void>[] = [];
  #cachedBytes = 0;

  constructor(file: TargetFile, owner: Owner) {
    this.#file = file;
    const direct = file.sizeBytes >= DIRECT_FILE_BYTES ? openDirect(file) : undefined;
    this.#isDirect = direct !== undefined;
    this.#descriptor = direct ?? openSync(file.path, FLAGS, file.mode);
    try {
      prepare(this.#descriptor, file, owner);
    } catch (error) {
      closeSync(this.#descriptor);
      throw error;
    }
  }

  async write(data: Buffer, position: number): Promise<void> {
    if (this.#isDirect) {
      const written = this.#writeDirect(data, position);
      this.#directWrites.push(written);
      await written;
    } else {
      writeCached(this.#descriptor, data, position);
      this.#cachedBytes += data.length;
    }
  }

  async close(): Promise<void> {
    try {
      await Promise.allSettled(this.#directWrites); // whoever began them sees their errors
      if (this.#cachedBytes >= WRITE_BACK_BYTES) await syncData(this.#descriptor);
    } finally {
      closeSync(this.#descriptor);
    }
  }

  async #writeDirect(data: Buffer, position: number): Promise<void> {
    if (isAligned(position) && isAligned(data.length) && (await tryDirect(this.#descriptor, data, position)))
      return;
    const descriptor = openSync(this.#file.path, constants.O_WRONLY | constants.O_NOFOLLOW);
    try {
      writeCached(descriptor, data, position);
    } finally {
      closeSync(descriptor);
    }
  }
}

/** Undefined where the file system has no writes past its cache. */
function openDirect(file: TargetFile): number | undefined {
  try {
    return openSync(file.path, FLAGS | constants.O_DIRECT, file.mode);
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return undefined;
  }
}

/** Gives a file its size, mode and owner, unless an earlier job did. */
function prepare(descriptor: number, file: TargetFile, owner: Owner): void {
  const found = fstatSync(descriptor);
  if (found.size !== file.sizeBytes) ftruncateSync(descriptor, file.sizeBytes);
  if ((found.mode & 0o7777) !== file.mode) fchmodSync(descriptor, file.mode);
  if (owner !== undefined && (found.uid !== owner.uid || found.gid !== owner.gid))
    fchownSync(descriptor, owner.uid, owner.gid);
}

/** False when the file system does not take these bytes so. */
async function tryDirect(descriptor: number, data: Buffer, position: number): Promise<boolean> {
  try {
    for (let done = 0; done < data.length; ) {
      const { bytesWritten } = await writeAsync(descriptor, data, done, data.length - done, position + done);
      if (bytesWritten === 0) return false;
      done += bytesWritten;
    }
    return true;
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return false;
  }
}

function writeCached(descriptor: number, data: Buffer, position: number): void {
  for (let done = 0; done < data.length; )
    done += writeSync(descriptor, data, done, data.length - done, position + done);
}

function isAligned(bytes: number): boolean {
  return bytes % ALIGNMENT_BYTES === 0;
}

/** How a file system says that it does not write past its cache, or not these bytes. */
function isRefusal(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EINVAL';
}

/** A file that is written piece by piece under a name of its own, and appears under its name when it is whole. */
import { type FileHandle, open, rename } from 'node:fs/promises';
import type { ServerUser } from '../../engine/postgres/server-process.ts';

/** Larger writes make a file system gather larger runs of memory, at up to four times the cost. */
const WRITE_BYTES = 512 * 1024;

export class NewFile implements AsyncDisposable {
  readonly #temporary: string;
  readonly #path: string;
  readonly #file: FileHandle;

  private constructor(temporary: string, path: string, file: FileHandle) {
    this.#temporary = temporary;
    this.#path = path;
    this.#file = file;
  }

  /** `temporary`: its name until it is whole; a file of that name is written over. */
  static async create(temporary: string, path: string, user: ServerUser | undefined): Promise<NewFile> {
    const file = await open(temporary, 'w', 0o600);
    const created = new NewFile(temporary, path, file);
    try {
      if (user !== undefined) await file.chown(user.uid, user.gid);
      return created;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async write(data: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < data.length; ) {
      const sizeBytes = Math.min(data.length - done, WRITE_BYTES);
      const { bytesWritten } = await this.#file.write(data, done, sizeBytes, position + done);
      done += bytesWritten;
    }
  }

  /** What was not written becomes zeros, up to `sizeBytes`. */
  async finish(sizeBytes: number): Promise<void> {
    await this.#file.truncate(sizeBytes);
    await this.#file.close();
    await rename(this.#temporary, this.#path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close(); // a second time does nothing
  }
}

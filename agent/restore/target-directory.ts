/**
 * The directories that a restore may write to. A restore never overwrites: each must be absent or empty. While it is
 * incomplete, the data directory holds the marker file and no control file, so that no server starts on it; when it
 * fails, what it made is removed.
 */
import {
  chmod,
  chown,
  lstat,
  mkdir,
  readdir,
  readFile,
  realpath,
  rm,
  rmdir,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { ServerUser } from '../../engine/postgres/server-process.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { syncPath } from './durability.ts';

export const INCOMPLETE_MARKER = 'HOLDFAST_RESTORE_INCOMPLETE';
/** What the marker says, by what is under way: where it writes, and what to do when its process has ended. */
const MARKER_WORDS = {
  restore: { where: 'into', afterwards: 'remove the directory and restore again' },
  delta: { where: 'over', afterwards: 'run the restore again with --delta' },
} as const;

/** Directories claimed by one restore; disposing removes their contents unless `keep` was called. */
export class ClaimedDirectories implements AsyncDisposable {
  readonly #claimed: { readonly path: string; readonly made: readonly string[] }[] = [];
  readonly #user: ServerUser | undefined;
  #kept = false;

  constructor(user: ServerUser | undefined) {
    this.#user = user;
  }

  /** Takes a directory that is absent or empty; gives it this mode and the server's owner. Throws TARGET_NOT_EMPTY, INVALID_ARGUMENT. */
  async claim(path: string, mode: number, what: string): Promise<void> {
    const made = await claimEmpty(path, what);
    this.#claimed.push({ path, made });
    await chmod(path, mode);
    if (this.#user !== undefined) await chown(path, this.#user.uid, this.#user.gid);
  }

  get paths(): readonly string[] {
    return this.#claimed.map((directory) => directory.path);
  }

  /** From now on disposing leaves everything as it is. */
  keep(): void {
    this.#kept = true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#kept) return;
    // The last one first: a data directory loses its marker only when all else is gone.
    for (const { path, made } of this.#claimed.toReversed()) {
      for (const name of await readdir(path).catch(() => []))
        if (name !== INCOMPLETE_MARKER) await rm(join(path, name), { recursive: true, force: true });
      await rm(join(path, INCOMPLETE_MARKER), { force: true });
      for (const directory of made) await rmdir(directory).catch(() => undefined); // another's file came in
    }
  }
}

/** The path with its existing part's links resolved, so that what is compared and written is the same place. */
export async function resolveTarget(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // node:fs throws errno errors
    const parent = dirname(path);
    return parent === path ? path : join(await resolveTarget(parent), basename(path));
  }
}

/** Durable when it returns. */
export async function writeMarker(dataDirectory: string, kind: keyof typeof MARKER_WORDS): Promise<void> {
  const { where, afterwards } = MARKER_WORDS[kind];
  const text = `Holdfast is restoring ${where} this directory, or was interrupted. It is not a usable database.
Process ${process.pid} is at it. If it ended, ${afterwards}.
`;
  const path = join(dataDirectory, INCOMPLETE_MARKER);
  await writeFile(path, text, { mode: 0o644 });
  await syncPath(path);
  await syncPath(dataDirectory);
}

/** The process that the directory's marker names; undefined when there is no marker, or it names none. */
export async function markerProcess(dataDirectory: string): Promise<number | undefined> {
  const text = await readFile(join(dataDirectory, INCOMPLETE_MARKER), 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
  const pid = Number(/^Process (\d+) /m.exec(text ?? '')?.[1] ?? 0);
  return pid === 0 ? undefined : pid;
}

export async function removeMarker(dataDirectory: string): Promise<void> {
  await rm(join(dataDirectory, INCOMPLETE_MARKER));
  await syncPath(dataDirectory);
}

/** The directories that were made for it, the innermost first; none when it was there and empty. */
async function claimEmpty(path: string, what: string): Promise<readonly string[]> {
  try {
    const found = await lstat(path);
    if (!found.isDirectory())
      throw new HoldfastError('TARGET_NOT_EMPTY', `${what} ${path} is there and no directory`);
    const names = await readdir(path);
    if (names.length > 0) throw notEmpty(path, what, names);
    return [];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // node:fs throws errno errors
  }
  try {
    return await makeDirectories(path);
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `${what} ${path} cannot be made`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
    });
  }
}

/**
 * Makes the directory and those above it that are missing; returns them, the innermost first. One after the other: in a
 * place like /proc, where nothing can be made, mkdir with `recursive` never comes back. Those above may be made by another
 * restore at the same time: partition groups of one tenant share them.
 */
async function makeDirectories(path: string): Promise<readonly string[]> {
  try {
    await mkdir(path);
    return [path];
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error;
  }
  const above = (await isThere(dirname(path))) ? [] : await makeAbove(dirname(path));
  await mkdir(path);
  return [path, ...above];
}

async function makeAbove(path: string): Promise<readonly string[]> {
  try {
    return await makeDirectories(path);
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
    return []; // another's
  }
}

function hasCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

async function isThere(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}

function notEmpty(path: string, what: string, names: readonly string[]): HoldfastError {
  const running = names.includes('postmaster.pid') ? ' and a server may be running on it' : '';
  return new HoldfastError('TARGET_NOT_EMPTY', `${what} ${path} is not empty${running}`, {
    hint: names.includes(INCOMPLETE_MARKER)
      ? 'An interrupted restore left it: remove it first.'
      : 'Name a directory that is absent or empty: a restore never overwrites.',
  });
}

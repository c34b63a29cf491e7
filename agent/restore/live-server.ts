/**
 * Whether a server runs on a data directory, or uses a tablespace's directory: what must never be written to. A server's
 * working directory is its data directory, and its links tell its tablespaces. That is known of processes that are seen
 * from here only: of a server in another container or on another machine nothing is seen but its postmaster.pid.
 */
import { lstat, readdir, readFile, readlink, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { serverPid } from '../../engine/postgres/server-process.ts';
import { HoldfastError } from '../../foundation/errors.ts';

const SERVER_FILE = 'postmaster.pid';

/**
 * Throws TARGET_NOT_EMPTY when a PostgreSQL process works in the directory, or the process that postmaster.pid names lives
 * and is not known to be another's.
 */
export async function refuseRunningServer(dataDirectory: string): Promise<void> {
  const pid = (await findServer(await realpath(dataDirectory))) ?? (await namedServer(dataDirectory));
  if (pid === undefined) return;
  throw new HoldfastError('TARGET_NOT_EMPTY', `a server runs on ${dataDirectory}: process ${pid}`, {
    hint: 'Stop it first. A restore never writes below a running server.',
  });
}

/**
 * Throws TARGET_NOT_EMPTY when there is a postmaster.pid, whatever it says: its number tells nothing where the server is in
 * another container or on another machine.
 */
export async function refuseServerFile(dataDirectory: string): Promise<void> {
  const path = join(dataDirectory, SERVER_FILE);
  const found = await lstat(path).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
    throw error;
  });
  if (found === undefined) return;
  throw new HoldfastError(
    'TARGET_NOT_EMPTY',
    `a server may run on ${dataDirectory}: it has a ${SERVER_FILE}`,
    {
      detail:
        'No such process is seen here, but the server may be in another container or on another machine.',
      hint: `Stop the server. When it is certain that none runs on the directory, on any machine (it crashed), remove ${path}.`,
    },
  );
}

async function findServer(dataDirectory: string): Promise<number | undefined> {
  for (const pid of await listProcesses()) {
    if ((await workingDirectory(pid)) !== dataDirectory) continue;
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (/^(postgres|postmaster)/.test(name)) return pid;
  }
  return undefined;
}

/** The process of postmaster.pid; undefined when it is gone, or its number is another's by now. */
async function namedServer(dataDirectory: string): Promise<number | undefined> {
  const pid = await serverPid(dataDirectory);
  if (pid === undefined || !isAlive(pid)) return undefined;
  const directory = await workingDirectory(pid);
  return directory === undefined || directory === (await realpath(dataDirectory)) ? pid : undefined;
}

/** None where the system does not tell. */
async function listProcesses(): Promise<readonly number[]> {
  const names = await readdir('/proc').catch(() => []);
  return names.filter((name) => /^\d+$/.test(name)).map(Number);
}

/** Throws TARGET_NOT_EMPTY when a server of this host, on whatever data directory, has a tablespace there. */
export async function refuseLiveTablespace(directory: string): Promise<void> {
  for (const pid of await listProcesses()) {
    const dataDirectory = await workingDirectory(pid);
    if (dataDirectory === undefined) continue;
    const links = join(dataDirectory, 'pg_tblspc');
    for (const oid of await readdir(links).catch(() => [])) {
      if ((await realpath(join(links, oid)).catch(() => undefined)) !== directory) continue;
      throw new HoldfastError(
        'TARGET_NOT_EMPTY',
        `a running server, process ${pid}, has a tablespace in ${directory}`,
        {
          detail: `Its data directory is ${dataDirectory}.`,
          hint: 'Name another directory with --tablespace-map.',
        },
      );
    }
  }
}

/** True while a process of this id is there, whoever's it is. */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // node's kill throws errno errors
  }
}

/** True when the process lives and one of the arguments of its command line is one of these words, or cannot be read. */
export async function isAliveAs(pid: number, words: readonly string[]): Promise<boolean> {
  if (!isAlive(pid)) return false;
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => undefined);
  return line === undefined || line.split('\0').some((argument) => words.includes(argument));
}

/** Undefined where it cannot be known. */
async function workingDirectory(pid: number): Promise<string | undefined> {
  return await readlink(`/proc/${pid}/cwd`).catch(() => undefined);
}

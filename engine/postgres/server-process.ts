/**
 * PostgreSQL servers as processes on this machine: initdb, start and stop, as an unprivileged user when we are root
 * (PostgreSQL refuses root). Used for restored instances, the demo and the tests.
 */
import { execFile, spawn } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HoldfastError } from '../../foundation/errors.ts';

const run = promisify(execFile);

/** Who runs the server. Undefined: whoever we are (then not root). */
export type ServerUser = { readonly uid: number; readonly gid: number };

export type ServerPaths = {
  /** Where `postgres`, `initdb` and `pg_ctl` are. */
  readonly binDirectory: string;
  readonly dataDirectory: string;
  readonly user: ServerUser | undefined;
};

/** Runs initdb. `options` are its own, for example `--data-checksums`. Superuser `postgres`, trust authentication, C.UTF-8. */
export async function initializeCluster(
  paths: ServerPaths,
  options: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  await runServerProgram(
    paths,
    'initdb',
    [
      '-D',
      paths.dataDirectory,
      '-U',
      'postgres',
      '-A',
      'trust',
      '-E',
      'UTF8',
      '--locale=C',
      '--no-sync',
      ...options,
    ],
    signal,
  );
}

/** Starts the server and returns when it accepts connections or has begun recovery; `waitSeconds` 0 does not wait at all. */
export async function startServer(
  paths: ServerPaths,
  options: { readonly logPath: string; readonly waitSeconds: number; readonly arguments?: readonly string[] },
  signal: AbortSignal,
): Promise<void> {
  const wait = options.waitSeconds > 0 ? ['-w', '-t', String(options.waitSeconds)] : ['-W'];
  const extra = (options.arguments ?? []).length > 0 ? ['-o', (options.arguments ?? []).join(' ')] : [];
  await runServerProgram(
    paths,
    'pg_ctl',
    ['start', '-D', paths.dataDirectory, '-l', options.logPath, ...wait, ...extra],
    signal,
  );
}

export type ServerEnd = { readonly code: number | null; readonly signal: NodeJS.Signals | null };

export type LaunchedServer = {
  readonly pid: number;
  /** How it ended; undefined while it runs. */
  end(): ServerEnd | undefined;
  /** Resolves when the server has ended while this process watches; never rejects. */
  readonly ended: Promise<ServerEnd>;
  /** From now on the server may outlive this process: it no longer keeps it from ending. */
  release(): void;
};

/**
 * Starts the server as a process of its own session, its output appended to `logPath`, and returns at once: for a
 * recovery, whose end pg_ctl cannot tell from a long start.
 */
export async function launchServer(
  paths: ServerPaths,
  options: { readonly logPath: string; readonly arguments?: readonly string[] },
): Promise<LaunchedServer> {
  await using log = await open(options.logPath, 'a');
  const identity = paths.user === undefined ? {} : { uid: paths.user.uid, gid: paths.user.gid };
  const child = spawn(
    join(paths.binDirectory, 'postgres'),
    ['-D', paths.dataDirectory, ...(options.arguments ?? [])],
    {
      ...identity,
      cwd: '/',
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { ...process.env, LC_ALL: 'C' },
    },
  );
  const ended = Promise.withResolvers<ServerEnd>();
  child.once('exit', (code, signal) => ended.resolve({ code, signal }));
  const started = Promise.withResolvers<number>();
  child.once('spawn', () => started.resolve(child.pid ?? 0));
  child.once('error', (error) => {
    started.reject(
      new HoldfastError('INTERNAL', `cannot run ${join(paths.binDirectory, 'postgres')}: ${error.message}`, {
        cause: error,
      }),
    );
  });
  const pid = await started.promise;
  return {
    pid,
    end: () =>
      child.exitCode === null && child.signalCode === null
        ? undefined
        : { code: child.exitCode, signal: child.signalCode },
    ended: ended.promise,
    release: () => child.unref(),
  };
}

export async function stopServer(
  paths: ServerPaths,
  mode: 'smart' | 'fast' | 'immediate',
  signal: AbortSignal,
): Promise<void> {
  await runServerProgram(
    paths,
    'pg_ctl',
    ['stop', '-D', paths.dataDirectory, '-m', mode, '-w', '-t', '120'],
    signal,
  );
}

/** The running server's process id from postmaster.pid; undefined when there is no such file. */
export async function serverPid(dataDirectory: string): Promise<number | undefined> {
  try {
    const text = await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8');
    const pid = Number.parseInt(text.split('\n')[0] ?? '', 10);
    return Number.isInteger(pid) && pid > 0 ? pid : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
    throw error;
  }
}

/** The end of a server's log file, for error messages. */
export async function logTail(logPath: string, maxBytes = 4096): Promise<string> {
  try {
    await using file = await open(logPath, 'r');
    const { size } = await file.stat();
    const begin = Math.max(0, size - maxBytes);
    const buffer = Buffer.alloc(size - begin);
    const { bytesRead } = await file.read(buffer, 0, buffer.length, begin);
    return buffer.subarray(0, bytesRead).toString('utf8');
  } catch (error) {
    return `(no server log at ${logPath}: ${(error as Error).message})`; // whatever open threw is an Error
  }
}

async function runServerProgram(
  paths: ServerPaths,
  program: string,
  args: readonly string[],
  signal: AbortSignal,
): Promise<string> {
  const identity = paths.user === undefined ? {} : { uid: paths.user.uid, gid: paths.user.gid };
  try {
    // The child's own cwd must be one that the unprivileged user may enter.
    const { stdout } = await run(join(paths.binDirectory, program), [...args], {
      ...identity,
      cwd: '/',
      signal,
      env: { ...process.env, LC_ALL: 'C' },
    });
    return stdout;
  } catch (error) {
    const output = (error as { stderr?: string }).stderr ?? ''; // execFile's errors carry the program's output
    throw new HoldfastError(
      'INTERNAL',
      `${program} failed for ${paths.dataDirectory}: ${output.trim() || (error as Error).message}`,
      { cause: error },
    );
  }
}

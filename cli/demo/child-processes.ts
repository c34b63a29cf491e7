/**
 * The processes that one run started, with a record of them on disk: so that a run that was killed can be cleaned up by
 * the next one, which ends those that are provably still the recorded ones and no others.
 */
import { spawn } from 'node:child_process';
import { open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { logTail } from '../../engine/postgres/server-process.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { endProcess, identify, isRunning, type ProcessIdentity } from './process-identity.ts';

export type ChildOptions = {
  readonly name: string;
  readonly command: string;
  readonly arguments: readonly string[];
  /** Standard output and error are appended here. */
  readonly logPath: string;
  readonly environment?: Readonly<Record<string, string>>;
};

export type Child = {
  readonly name: string;
  readonly identity: ProcessIdentity;
  readonly logPath: string;
  /** Resolves when it has ended, with its exit code or the signal that ended it. Never rejects. */
  readonly ended: Promise<number | NodeJS.Signals>;
};

type ProcessRecord = ProcessIdentity & { readonly name: string };

export class ChildProcesses implements AsyncDisposable {
  readonly #recordPath: string;
  readonly #records: ProcessRecord[] = [];

  private constructor(recordPath: string) {
    this.#recordPath = recordPath;
  }

  /** Takes charge of a directory: what an earlier run left in it is ended first. */
  static async open(directory: string): Promise<ChildProcesses> {
    await endRecordedProcesses(directory);
    return new ChildProcesses(join(directory, 'processes.json'));
  }

  /** Starts a program in a session of its own, so that Ctrl-C reaches only us and we end it in order. */
  async start(options: ChildOptions): Promise<Child> {
    await using log = await open(options.logPath, 'a');
    const child = spawn(options.command, [...options.arguments], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { ...process.env, ...options.environment },
    });
    const ended = Promise.withResolvers<number | NodeJS.Signals>();
    const started = Promise.withResolvers<number>();
    child.once('exit', (code, signal) => ended.resolve(code ?? signal ?? 'SIGKILL'));
    child.once('spawn', () => started.resolve(child.pid ?? 0));
    child.once('error', (error) =>
      started.reject(
        new HoldfastError('INTERNAL', `cannot run ${options.command}: ${error.message}`, { cause: error }),
      ),
    );
    const pid = await started.promise;
    child.unref();
    const identity = (await identify(pid)) ?? { pid, began: 'ended before it could be asked' };
    await this.#record({ ...identity, name: options.name });
    return { name: options.name, identity, logPath: options.logPath, ended: ended.promise };
  }

  /** Takes charge of a process that something else started: a PostgreSQL server that pg_ctl or an agent brought up. */
  async adopt(name: string, pid: number): Promise<void> {
    const identity = await identify(pid);
    if (identity !== undefined) await this.#record({ ...identity, name });
  }

  /** Names of those that still run. */
  async running(): Promise<string[]> {
    const names: string[] = [];
    for (const record of this.#records) if (await isRunning(record)) names.push(record.name);
    return names;
  }

  /** Ends all, the last started first. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const record of this.#records.toReversed()) await endRecord(record);
    await this.#write([]);
  }

  async #record(record: ProcessRecord): Promise<void> {
    this.#records.push(record);
    await this.#write(this.#records);
  }

  async #write(records: readonly ProcessRecord[]): Promise<void> {
    await writeFile(`${this.#recordPath}.new`, `${JSON.stringify(records, undefined, 2)}\n`);
    await rename(`${this.#recordPath}.new`, this.#recordPath);
  }
}

/** Ends what an earlier run recorded in `directory` and what is still running. Returns their names. */
export async function endRecordedProcesses(directory: string): Promise<string[]> {
  let text: string;
  try {
    text = await readFile(join(directory, 'processes.json'), 'utf8');
  } catch {
    return []; // no earlier run
  }
  const names: string[] = [];
  for (const record of parseRecords(text).toReversed()) {
    if (!(await isRunning(record))) continue;
    await endRecord(record);
    names.push(record.name);
  }
  return names;
}

/** What went wrong with a process that ended by itself: its exit and the end of its log. */
export async function describeEnd(child: Child): Promise<HoldfastError> {
  const end = await child.ended;
  return new HoldfastError('INTERNAL', `the ${child.name} has ended (${end})`, {
    detail: await logTail(child.logPath),
    hint: `Its whole log is ${child.logPath}.`,
  });
}

/** A server's SIGINT is its fast shutdown; our processes drain on SIGTERM. */
async function endRecord(record: ProcessRecord): Promise<void> {
  await endProcess(record, record.name.startsWith('PostgreSQL') ? 'SIGINT' : 'SIGTERM', 30_000);
}

function parseRecords(text: string): ProcessRecord[] {
  const value: unknown = JSON.parse(text);
  if (!Array.isArray(value)) return [];
  return value.filter(
    (each: Partial<ProcessRecord>): each is ProcessRecord =>
      Number.isInteger(each.pid) && typeof each.began === 'string' && typeof each.name === 'string',
  );
}

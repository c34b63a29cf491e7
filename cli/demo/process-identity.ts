/**
 * Which process a pid means. A pid is given again after its process has ended; together with the moment the process began
 * it names one process for ever. Only a process that is still the recorded one may be ended.
 */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { promisify } from 'node:util';
import { HoldfastError } from '../../foundation/errors.ts';

const run = promisify(execFile);

export type ProcessIdentity = {
  readonly pid: number;
  /** When it began, in whatever unit the system tells: only compared. */
  readonly began: string;
};

/** The identity of a running process; undefined when there is none of that pid (a zombie counts as none). */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  const began = process.platform === 'linux' ? await beganFromProc(pid) : await beganFromPs(pid);
  return began === undefined ? undefined : { pid, began };
}

/** True while the very process runs. */
export async function isRunning(identity: ProcessIdentity): Promise<boolean> {
  return (await identify(identity.pid))?.began === identity.began;
}

/** Sends a signal if, and only if, the process is still the same one. */
export async function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): Promise<void> {
  if (!(await isRunning(identity))) return;
  try {
    process.kill(identity.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error; // process.kill throws errno errors
  }
}

/** Waits until it has ended. False when it still runs after `timeoutMs`. */
export async function waitForEnd(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  while (await isRunning(identity)) {
    if (performance.now() > deadline) return false;
    await wait(20);
  }
  return true;
}

/** Ends it: `signal` first, SIGKILL when it does not obey within `timeoutMs`. Returns whether the first was enough. */
export async function endProcess(
  identity: ProcessIdentity,
  signal: NodeJS.Signals,
  timeoutMs: number,
): Promise<boolean> {
  await signalProcess(identity, signal);
  if (await waitForEnd(identity, timeoutMs)) return true;
  await signalProcess(identity, 'SIGKILL');
  if (!(await waitForEnd(identity, 10_000)))
    throw new HoldfastError('TIMEOUT', `process ${identity.pid} does not end, not even by SIGKILL`);
  return false;
}

/** proc(5): the 22nd field of stat, counted behind the command's name, which may hold anything. */
async function beganFromProc(pid: number): Promise<string | undefined> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined; // no such process
  }
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return fields[0] === 'Z' ? undefined : fields[19];
}

async function beganFromPs(pid: number): Promise<string | undefined> {
  try {
    const { stdout } = await run('ps', ['-o', 'stat=,lstart=', '-p', String(pid)]);
    const text = stdout.trim();
    return text === '' || text.startsWith('Z') ? undefined : text.replace(/^\S+\s+/, '');
  } catch {
    return undefined; // ps fails when there is no such process
  }
}

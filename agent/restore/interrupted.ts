/**
 * What a restore left behind whose process was killed: the marker file tells it from everything else. Its server may
 * still run: it is ours alone (nobody else can log in before the restore has ended), and it is stopped.
 */
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { serverPid } from '../../engine/postgres/server-process.ts';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { INCOMPLETE_MARKER } from './target-directory.ts';

const STOP_TIMEOUT_MS = 30_000;
const POLL_MS = 50;

/**
 * Removes an interrupted restore's directories; does nothing when there is none. Directories that a tablespace map named
 * elsewhere stay. True when something was removed. Throws RESTORE_FAILED when its server does not end.
 */
export async function removeInterrupted(
  dataDirectory: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<boolean> {
  if (!(await exists(join(dataDirectory, INCOMPLETE_MARKER)))) return false;
  await stopLeftover(dataDirectory, clock, signal);
  for (const path of [`${dataDirectory}.tablespaces`, `${dataDirectory}.holdfast`, dataDirectory])
    await rm(path, { recursive: true, force: true });
  return true;
}

/** Ends the server that an interrupted restore left running on the directory. Throws RESTORE_FAILED when it does not end. */
export async function stopLeftover(dataDirectory: string, clock: Clock, signal: AbortSignal): Promise<void> {
  const pid = await serverPid(dataDirectory);
  if (pid === undefined || !(await runsOn(pid, dataDirectory))) return;
  process.kill(pid, 'SIGQUIT');
  const deadlineMs = clock.monotonicMs() + STOP_TIMEOUT_MS;
  while (await runsOn(pid, dataDirectory)) {
    if (clock.monotonicMs() > deadlineMs)
      throw new HoldfastError(
        'RESTORE_FAILED',
        `the server that an interrupted restore left does not end: ${pid}`,
      );
    await clock.sleep(POLL_MS, signal);
  }
}

/** True when the process was started on this directory: a process id may be another's by now. */
async function runsOn(pid: number, dataDirectory: string): Promise<boolean> {
  try {
    const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
    return args.includes(dataDirectory);
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return false; // it has ended
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

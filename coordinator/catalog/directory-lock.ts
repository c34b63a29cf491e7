/** A lock file with a process id: PGlite does not notice a second process in its directory. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../../foundation/errors.ts';

/** Held until disposed. Throws INVALID_CONFIG when a living process holds it; one left by a dead process is taken over. */
export async function lockDirectory(directory: string): Promise<AsyncDisposable> {
  const path = join(directory, 'coordinator.pid');
  for (let attempt = 0; ; attempt += 1) {
    try {
      await writeFile(path, `${process.pid}\n`, { flag: 'wx', mode: 0o600 });
      return { [Symbol.asyncDispose]: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt === 3) throw error; // node:fs throws errno errors
      const pid = Number.parseInt(await readFile(path, 'utf8').catch(() => ''), 10);
      if (isAlive(pid)) {
        throw new HoldfastError(
          'INVALID_CONFIG',
          `the data directory ${directory} is in use by process ${pid}`,
          {
            hint: `Stop that coordinator, or remove ${path} if it is none.`,
          },
        );
      }
      await rm(path, { force: true });
    }
  }
}

function isAlive(pid: number): boolean {
  // Our own id is a left-over too: in a container every coordinator may be process 1.
  if (!Number.isInteger(pid) || pid <= 0 || pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'; // it lives, under another user
  }
}

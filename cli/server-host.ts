/** What a stand-alone restore finds out about this host: PostgreSQL's programs, and who the server runs as. */
import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { HoldfastError } from '../foundation/errors.ts';

const run = promisify(execFile);

/** Where the programs of one major version are, by custom of distributions, last the ones that come with Holdfast's tests. */
function usualDirectories(major: number): readonly string[] {
  return [
    `/usr/lib/postgresql/${major}/bin`,
    `/usr/pgsql-${major}/bin`,
    `/usr/lib64/pgsql/postgresql-${major}/bin`,
    `/usr/libexec/postgresql${major}`,
    `/opt/homebrew/opt/postgresql@${major}/bin`,
    `/usr/local/opt/postgresql@${major}/bin`,
    join(import.meta.dirname, '..', 'node_modules', `postgres-${major}`, 'native', 'bin'),
  ];
}

/** The directory of `postgres` and `pg_ctl`. Throws INVALID_ARGUMENT when the version is not installed where it is looked for. */
export async function findBinDirectory(major: number, wanted: string | undefined): Promise<string> {
  const candidates = wanted === undefined ? usualDirectories(major) : [wanted];
  for (const directory of candidates) {
    if (!(await isExecutable(join(directory, 'postgres')))) continue;
    const { stdout } = await run(join(directory, 'postgres'), ['--version']);
    if (new RegExp(`\\b${major}(?:\\.|devel|beta|rc|\\b)`).test(stdout)) return directory;
    if (wanted !== undefined)
      throw new HoldfastError('INVALID_ARGUMENT', `the backup is of PostgreSQL ${major}, ${stdout.trim()}`);
  }
  throw new HoldfastError(
    'INVALID_ARGUMENT',
    `PostgreSQL ${major} is not found in ${candidates.join(', ')}`,
    {
      hint: 'Install that version, or name the directory of its programs with --bin-directory.',
    },
  );
}

/**
 * The user that the server runs as: undefined for whoever we are. PostgreSQL refuses root, so root needs another one:
 * the named one, or `postgres`. Throws INVALID_ARGUMENT when there is no such user.
 */
export async function findServerUser(
  name: string | undefined,
): Promise<{ readonly uid: number; readonly gid: number } | undefined> {
  const ourselves = userInfo();
  if (name === undefined && ourselves.uid !== 0) return undefined;
  const wanted = name ?? 'postgres';
  try {
    const [uid, gid] = await Promise.all([idOf('-u', wanted), idOf('-g', wanted)]);
    return uid === ourselves.uid ? undefined : { uid, gid };
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `there is no user "${wanted}" on this host`, {
      cause: error,
      hint: 'PostgreSQL does not run as root: name a user with --run-as.',
    });
  }
}

async function idOf(option: string, user: string): Promise<number> {
  return Number((await run('id', [option, '--', user])).stdout);
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false; // not there, or not for us
  }
}

/**
 * Debian packages that tests and benchmarks need and npm lacks. As root they are installed when a program of theirs is
 * missing; otherwise the command to run is named. A server installed this way must not start one of its own: before the
 * first installation `create_main_cluster = false` is written where postgresql-common looks for it.
 */
import { constants } from 'node:fs';
import { access, mkdir, writeFile } from 'node:fs/promises';
import { HoldfastError } from '../foundation/errors.ts';
import { runStep } from './run-step.ts';

export type DebianPackage = {
  readonly name: string;
  /** Programs that are there when the package is. */
  readonly programs: readonly string[];
};

const CREATE_CLUSTER_CONF = '/etc/postgresql-common/createcluster.conf';
export const POSTGRES_15_BIN = '/usr/lib/postgresql/15/bin';

/** PostgreSQL 15 from Debian: the referees pg_waldump and pg_verifybackup, pgbench and psql. */
export const TEST_PACKAGES: readonly DebianPackage[] = [
  {
    name: 'postgresql-15',
    programs: [`${POSTGRES_15_BIN}/postgres`, `${POSTGRES_15_BIN}/pg_waldump`, `${POSTGRES_15_BIN}/pgbench`],
  },
  {
    name: 'postgresql-client-15',
    programs: [`${POSTGRES_15_BIN}/psql`, `${POSTGRES_15_BIN}/pg_verifybackup`],
  },
];

/** Installs what is missing. Throws SERVER_PRECHECK_FAILED, naming the packages, when that is not possible. */
export async function ensureDebianPackages(packages: readonly DebianPackage[]): Promise<void> {
  const missing = await missingPackages(packages);
  if (missing.length === 0) return;
  const names = missing.map((each) => each.name);
  if (process.getuid?.() !== 0 || !(await exists('/usr/bin/apt-get'))) {
    throw new HoldfastError(
      'SERVER_PRECHECK_FAILED',
      `these Debian packages are missing: ${names.join(', ')}`,
      {
        hint: `Run as root: apt-get update && apt-get install --no-install-recommends ${names.join(' ')}`,
      },
    );
  }
  console.log(`Installing ${names.join(', ')} (apt-get) ...`);
  await keepServersFromStarting();
  await aptGet('update', '-qq');
  await aptGet('install', '-qq', '-y', '--no-install-recommends', ...names);
  const still = await missingPackages(missing);
  if (still.length > 0) {
    throw new HoldfastError(
      'SERVER_PRECHECK_FAILED',
      `apt-get installed ${names.join(', ')}, but these programs are not there: ${still.flatMap((each) => each.programs).join(', ')}`,
    );
  }
}

async function missingPackages(packages: readonly DebianPackage[]): Promise<DebianPackage[]> {
  const missing: DebianPackage[] = [];
  for (const each of packages) {
    const there = await Promise.all(each.programs.map(exists));
    if (there.includes(false)) missing.push(each);
  }
  return missing;
}

async function exists(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** Leaves a machine that already has postgresql-common as its owner set it up. */
async function keepServersFromStarting(): Promise<void> {
  await mkdir('/etc/postgresql-common', { recursive: true });
  await writeFile(CREATE_CLUSTER_CONF, 'create_main_cluster = false\n', { flag: 'wx' }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    },
  );
}

async function aptGet(...args: readonly string[]): Promise<void> {
  const result = await runStep({
    name: 'apt-get',
    command: 'apt-get',
    // A configuration file that we wrote first is no question to ask: ours is kept.
    arguments: ['-o', 'Dpkg::Options::=--force-confold', '-o', 'DPkg::Lock::Timeout=120', ...args],
    output: 'capture',
    environment: { DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (!result.passed) {
    throw new HoldfastError('SERVER_PRECHECK_FAILED', `apt-get ${args.join(' ')} failed`, {
      detail: result.output.trim(),
    });
  }
}

/**
 * PostgreSQL refuses root, so that tests run by root start their servers as nobody. Where nobody may not enter the checkout
 * (below /root, say) the servers from npm are copied to a temporary directory for as long as the tests run.
 */
import { execFile } from 'node:child_process';
import { chmod, cp, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ROOT } from './run-step.ts';

const run = promisify(execFile);
const NOBODY = 65_534;

export type ReachableServers = {
  /** What the tests need to know to find them. */
  readonly environment: Readonly<Record<string, string>>;
  [Symbol.asyncDispose](): Promise<void>;
};

export async function provideReachableServers(): Promise<ReachableServers> {
  const packages = (await readdir(join(ROOT, 'node_modules'))).filter((name) => /^postgres-\d\d$/.test(name));
  const [first] = packages;
  if (process.getuid?.() !== 0 || first === undefined || (await nobodyReaches(programOf(first))))
    return { environment: {}, async [Symbol.asyncDispose]() {} };
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-servers-'));
  await chmod(directory, 0o755);
  for (const name of packages)
    await cp(join(ROOT, 'node_modules', name, 'native'), join(directory, name.slice('postgres-'.length)), {
      recursive: true,
      verbatimSymlinks: true,
    });
  return {
    environment: { HOLDFAST_TEST_POSTGRES: directory },
    async [Symbol.asyncDispose]() {
      await rm(directory, { recursive: true, force: true });
    },
  };
}

function programOf(name: string): string {
  return join(ROOT, 'node_modules', name, 'native', 'bin', 'postgres');
}

async function nobodyReaches(program: string): Promise<boolean> {
  return run(program, ['--version'], { uid: NOBODY, gid: NOBODY, cwd: '/' }).then(
    () => true,
    () => false,
  );
}

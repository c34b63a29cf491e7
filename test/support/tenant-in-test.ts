/** A coordinator inside the test's process with one tenant, `orders`, whose agent copies nothing, and an empty destination. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CoordinatorInTest } from './coordinator-in-test.ts';
import { FakeAgent } from './fake-agent.ts';

export type TenantInTest = AsyncDisposable & {
  /** The destination is `dest` in it. */
  readonly directory: string;
  readonly coordinator: CoordinatorInTest;
  readonly agent: FakeAgent;
};

/** `name`: of its directory; `archives`: a round is DOING. */
export async function startTenant(
  name: string,
  { archives }: { readonly archives: boolean },
): Promise<TenantInTest> {
  const directory = await mkdtemp(join(tmpdir(), `holdfast-${name}-`));
  await mkdir(join(directory, 'dest'));
  const coordinator = await CoordinatorInTest.start(join(directory, 'state'));
  const agent = new FakeAgent({
    address: `127.0.0.1:${coordinator.port}`,
    tenant: 'orders',
    token: 'shared',
  });
  await coordinator.until('the leader', async () =>
    (await coordinator.view('dba_ob_partition_groups')).some((group) => group['role'] === 'LEADER'),
  );
  const value = `file://${directory}/dest`;
  await coordinator.run({ kind: 'setParameter', name: 'backup_dest', value });
  if (archives) {
    await coordinator.run({ kind: 'archiveLog', tenants: 'all' });
    await coordinator.until('a round', async () => (await coordinator.roundState()) === 'DOING');
  }
  return {
    directory,
    coordinator,
    agent,
    async [Symbol.asyncDispose]() {
      await agent[Symbol.asyncDispose]();
      await coordinator[Symbol.asyncDispose]();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

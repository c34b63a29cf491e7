/** Replication groups for tests: standbys copied from a stopped primary, promotions, standbys that follow another leader. */
import { appendFile, chown, cp, lchown, readdir, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from '../../cli/demo/wait.ts';
import { freePort, makeTestDirectory, serverIn, serverUser, type TestServer } from './postgres.ts';

/**
 * A standby of `primary`, which must be stopped, from a copy of its data directory and its tablespaces, without the
 * primary's slots. Started when the primary runs again. `port`: of a server that is gone, whose place it takes.
 */
export async function copyStandby(primary: TestServer, port?: number): Promise<TestServer> {
  const directory = await makeTestDirectory(`pg${primary.major}-standby`);
  const server = serverIn(directory, primary.major, port ?? (await freePort()));
  await cp(primary.dataDirectory, server.dataDirectory, { recursive: true, verbatimSymlinks: true });
  await copyTablespaces(server);
  const slots = join(server.dataDirectory, 'pg_replslot');
  for (const name of await readdir(slots)) await rm(join(slots, name), { recursive: true });
  await giveToServerUser(directory);
  await appendSettings(server, { port: String(server.port) });
  await follow(server, primary);
  return server;
}

/** Gives the copy tablespaces of its own: its links lead to those of the server that it was copied from. */
async function copyTablespaces({ directory, dataDirectory }: TestServer): Promise<void> {
  for (const name of await readdir(join(dataDirectory, 'pg_tblspc'))) {
    const link = join(dataDirectory, 'pg_tblspc', name);
    const location = join(directory, `tablespace-${name}`);
    await cp(await readlink(link), location, { recursive: true, verbatimSymlinks: true });
    await rm(link);
    await symlink(location, link);
  }
}

/**
 * A developer's copy of `primary`, which must be stopped: its system identifier, promoted as often as it takes to reach
 * `timeline`. It runs, and nobody follows it.
 */
export async function startClone(primary: TestServer, timeline: number): Promise<TestServer> {
  const clone = await copyStandby(primary);
  for (let reached = 1; reached < timeline; reached += 1) {
    if (reached > 1) {
      await clone.stop();
      await writeFile(join(clone.dataDirectory, 'standby.signal'), '');
      await giveToServerUser(clone.dataDirectory);
    }
    await clone.start();
    await promote(clone);
  }
  return clone;
}

/** Makes the server, which is stopped, a standby of `leader`. */
export async function follow(server: TestServer, leader: TestServer): Promise<void> {
  await writeFile(join(server.dataDirectory, 'standby.signal'), '');
  await appendSettings(server, {
    primary_conninfo: `'host=127.0.0.1 port=${leader.port} user=postgres application_name=standby_${server.port}'`,
  });
  await giveToServerUser(server.dataDirectory);
}

/** Makes a running standby follow another leader. */
export async function followAnother(server: TestServer, leader: TestServer): Promise<void> {
  await follow(server, leader);
  await server.query('SELECT pg_reload_conf()');
}

export async function promote(server: TestServer): Promise<void> {
  await server.query('SELECT pg_promote(true, 60)');
}

/** The standby that has received the most. */
export async function mostAdvanced(standbys: readonly TestServer[]): Promise<readonly TestServer[]> {
  const received = await Promise.all(
    standbys.map(async (server) => {
      const [row] = await server.query<{ lsn: string }>(
        "SELECT (greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0')::text AS lsn",
      );
      return { server, lsn: BigInt(row?.lsn ?? 0) };
    }),
  );
  return received.sort((a, b) => (a.lsn > b.lsn ? -1 : 1)).map(({ server }) => server);
}

/** Waits until as many standbys stream from the primary. */
export async function standbysStream(primary: TestServer, count: number): Promise<void> {
  await waitFor(
    async () => {
      const [row] = await primary.query<{ count: number }>(
        "SELECT count(*)::int AS count FROM pg_stat_replication WHERE application_name LIKE 'standby%' AND state = 'streaming'",
      );
      return row?.count === count ? true : undefined;
    },
    { what: `${count} standbys to stream`, timeoutMs: 60_000 },
  );
}

async function appendSettings(server: TestServer, settings: Readonly<Record<string, string>>): Promise<void> {
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}\n`);
  await appendFile(join(server.dataDirectory, 'postgresql.auto.conf'), lines.join(''));
}

async function giveToServerUser(directory: string): Promise<void> {
  const user = serverUser();
  if (user === undefined) return;
  await chown(directory, user.uid, user.gid);
  for (const name of await readdir(directory, { recursive: true }))
    await lchown(join(directory, name), user.uid, user.gid).catch(() => undefined); // a running server removes files
}

/**
 * The trap of correctness.md 7: records of the heap that clear bits of a visibility map do not name its page, in 14 to 16
 * and before 17.11 and 18.6. An increment that took `_vm` files by the pages that the log names would bring back old bits,
 * and index-only scans would show rows that are dead. So that the trap is set on every version, all that the archive's change
 * maps say of visibility maps is taken out of them before the increment is made.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { compareIndexScans, type IndexScanReport } from '../../cli/demo/index-scans.ts';
import { type ServerPaths, startServer, stopServer } from '../../engine/postgres/server-process.ts';
import { runAmcheck } from '../support/amcheck.ts';
import { editChangeMaps, readChanges } from '../support/change-maps.ts';
import { ArchivedServer } from '../support/increments.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, type Major, serverUser } from '../support/postgres.ts';
import { connectorTo } from '../support/scenario.ts';

const VISIBILITY_MAP = 2;
/** The first minor versions whose records name the pages of visibility maps. */
const NAMED_SINCE: Readonly<Partial<Record<Major, number>>> = { 17: 170_011, 18: 180_006 };
const { signal } = new AbortController();

describe.each(majors(17, 18))('PostgreSQL %i', (major) => {
  test('bits of a visibility map that were cleared since the backup before are not set in a restored increment', async () => {
    await using stage = await ArchivedServer.start({ major, settings: { autovacuum: 'off' } });
    const { server, destination } = stage;
    await server.query('CREATE TABLE seen AS SELECT i AS id, i % 10 AS n FROM generate_series(1, 50000) i');
    await server.query('ALTER TABLE seen ADD PRIMARY KEY (id)');
    await server.query('CREATE INDEX seen_n ON seen (n, id)');
    await server.query('VACUUM (FREEZE) seen');
    await server.query('CHECKPOINT');
    const [relation] = await server.query<{ path: string; file: number }>(
      "SELECT pg_relation_filepath('seen') AS path, pg_relation_filenode('seen')::int AS file",
    );
    const map = `${relation?.path}_vm`;
    await stage.backUp();
    const backedUp = await stage.seal();
    const before = await readFile(join(server.dataDirectory, map));

    await server.query('DELETE FROM seen WHERE id % 100 = 7');
    await server.query('UPDATE seen SET n = n + 100 WHERE id % 100 = 8');
    await server.query('BEGIN; SELECT id FROM seen WHERE id % 100 = 9 FOR UPDATE; COMMIT');
    await server.query('CHECKPOINT');
    expect((await readFile(join(server.dataDirectory, map))).equals(before)).toBe(false);

    await stage.seal();
    const changes = await readChanges(destination, backedUp);
    const isNamed = changes.some(
      (change) =>
        change.kind === 'fork' && change.relation === relation?.file && change.fork === VISIBILITY_MAP,
    );
    const [version] = await server.query<{ number: number }>(
      "SELECT current_setting('server_version_num')::int AS number",
    );
    const since = NAMED_SINCE[major];
    const shouldBeNamed = since !== undefined && (version?.number ?? 0) >= since;
    expect(isNamed, `whether the log of ${version?.number} names the visibility map`).toBe(shouldBeNamed);
    await editChangeMaps(destination, (parts) => ({
      ...parts,
      forks: parts.forks.filter(({ fork }) => fork !== VISIBILITY_MAP),
    }));
    expect((await stage.backUp()).previousSetId).toBe(1n);
    await stage.seal();

    {
      await using copy = await restore(stage, 'copy');
      expect(await scanIndexes(copy.port)).toEqual({ scanned: 2, differences: [] });
      expect(await runAmcheck(connectorTo(copy.port))).toEqual([]);
    }
    // That these scans would have told: in another copy, with the map of the backup before.
    await using stale = await restore(stage, 'stale');
    await stopServer(stale.paths, 'fast', signal);
    await writeFile(join(stale.paths.dataDirectory, map), before);
    const logPath = join(server.directory, 'stale.log');
    await startServer(stale.paths, { logPath, waitSeconds: 60 }, signal);
    expect((await scanIndexes(stale.port)).differences).toHaveLength(2);
  });
});

type Copy = AsyncDisposable & { readonly paths: ServerPaths; readonly port: number };

/** The increment's set. */
async function restore(stage: ArchivedServer, name: string): Promise<Copy> {
  const { server } = await stage.restore(2n, name);
  const { major, directory } = stage.server;
  const paths = {
    binDirectory: binDirectory(major),
    dataDirectory: join(directory, name),
    user: serverUser(),
  };
  return {
    paths,
    port: server?.port ?? 0,
    async [Symbol.asyncDispose]() {
      await stopServer(paths, 'immediate', signal);
    },
  };
}

async function scanIndexes(port: number): Promise<IndexScanReport> {
  const client = await connectorTo(port)('postgres');
  try {
    return await compareIndexScans(client);
  } finally {
    await client.end();
  }
}

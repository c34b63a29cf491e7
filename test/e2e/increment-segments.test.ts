/**
 * Increments of a table that crosses the end of a file of 1 GB: it grows into a second file, is changed on both sides, is
 * cut back, which leaves a second file of no length, and grows again. The first file is a hole for the most part: pages of
 * zeros are new pages to the server, and cost nothing.
 */
import { rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { SEGMENT_PAGES } from '../../engine/postgres/relation-files.ts';
import { stopServer } from '../../engine/postgres/server-process.ts';
import { findDifferences } from '../support/compare.ts';
import { ArchivedServer } from '../support/increments.ts';
import { majors } from '../support/majors.ts';
import { binDirectory, serverUser } from '../support/postgres.ts';
import { connectorTo } from '../support/scenario.ts';

const PAGE_BYTES = 8192;
/** Rows of 1 kB. Fewer pages than these would take are not worth cutting off to the server. */
const ROWS = 9000;

describe.each(majors(17))('PostgreSQL %i', (major) => {
  let stage: ArchivedServer;
  let path: string;
  const states: ServerState[] = [];

  /** Of the first file and the second; undefined: there is none. */
  async function filePages(): Promise<readonly (number | undefined)[]> {
    return await Promise.all(
      [path, `${path}.1`].map(async (file) => {
        const found = await stat(file).catch(() => undefined);
        return found === undefined ? undefined : found.size / PAGE_BYTES;
      }),
    );
  }

  async function backUp(): Promise<void> {
    const backup = await stage.backUp();
    if (states.length > 0) expect(backup.readBytes).toBeLessThan(backup.inputBytes / 10n);
    states.push(await readServerState((database) => stage.server.connect(database)));
  }

  /** Rows at the end of the table, whatever its free space map says of the pages before. */
  async function grow(firstId: number): Promise<void> {
    await stage.server.query(
      `INSERT INTO wide SELECT i, repeat('x', 1000) FROM generate_series(${firstId}, ${firstId + ROWS - 1}) i`,
    );
    await stage.server.query('CHECKPOINT');
  }

  beforeAll(async () => {
    stage = await ArchivedServer.start({ major, settings: { autovacuum: 'off' } });
    const { server } = stage;
    await server.query('CREATE TABLE wide (id int PRIMARY KEY, body text)');
    const [row] = await server.query<{ path: string }>("SELECT pg_relation_filepath('wide') AS path");
    path = join(server.dataDirectory, row?.path ?? '');
    await server.stop();
    await truncate(path, (SEGMENT_PAGES - 1) * PAGE_BYTES);
    await server.start();
    await backUp();
    expect(await filePages()).toEqual([SEGMENT_PAGES - 1, undefined]);

    await grow(1);
    expect(await filePages()).toEqual([SEGMENT_PAGES, expect.any(Number)]);
    await backUp();

    await server.query("UPDATE wide SET body = 'y' WHERE id % 50 = 1");
    await backUp();

    await server.query(`DELETE FROM wide WHERE (ctid::text::point)[0] >= ${SEGMENT_PAGES - 1}`);
    // Of so few dead rows the server would leave the index entries alone, and then the rows' pages stay.
    await server.query('VACUUM (TRUNCATE, INDEX_CLEANUP ON) wide');
    expect(await filePages()).toEqual([SEGMENT_PAGES - 1, 0]);
    await backUp();

    // Without its map the server knows of no free page but the last.
    await server.stop();
    await rm(`${path}_fsm`);
    await server.start();
    await grow(ROWS + 1);
    const [first, second] = await filePages();
    expect(first).toBe(SEGMENT_PAGES);
    expect(second).toBeGreaterThan(1000);
    await backUp();
    await stage.seal();
  }, 300_000);

  afterAll(async () => {
    await stage?.[Symbol.asyncDispose]();
  });

  test('increments of a table that grows over the end of a file, is cut back and grows again are right', async () => {
    expect(states).toHaveLength(5);
    for (const [index, state] of states.entries()) {
      if (index === 0) continue; // the full one
      const to = `copy-${index + 1}`;
      const { server: copy } = await stage.restore(BigInt(index + 1), to);
      const dataDirectory = join(stage.server.directory, to);
      try {
        expect(await findDifferences(connectorTo(copy?.port ?? 0), state), `set ${index + 1}`).toEqual([]);
      } finally {
        const paths = { binDirectory: binDirectory(major), dataDirectory, user: serverUser() };
        await stopServer(paths, 'immediate', new AbortController().signal);
        await rm(dataDirectory, { recursive: true });
      }
    }
  });
});

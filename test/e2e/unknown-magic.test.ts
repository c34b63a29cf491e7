/** Log of a PostgreSQL that this Holdfast does not know: it is not archived as if it were understood. */
import { expect, test } from 'vitest';
import { startDeployment } from '../support/holdfast-processes.ts';
import { createServer } from '../support/postgres.ts';
import { beginArchiving, createPool, TENANT } from '../support/scenario.ts';
import { startServerProxy } from '../support/server-proxy.ts';

const PAGE_BYTES = 8192n;
/** 14 to 18 have D10D to D118. */
const UNKNOWN_MAGIC = 0xd1ff;
const ROUND = `SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`;

test('an unknown page magic ends the round, naming it and the versions that are known; a new round begins when it is gone', async () => {
  await using server = await createServer({ settings: { max_slot_wal_keep_size: "'4GB'" } });
  await using proxy = await startServerProxy(server.port);
  await using deployment = await startDeployment({
    servers: [{ name: 'orders-primary', tenant: TENANT, port: proxy.port }],
  });
  await beginArchiving(deployment);
  await createPool(deployment);
  await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
  proxy.change = (begin, log) => {
    for (
      let at = (PAGE_BYTES - (begin % PAGE_BYTES)) % PAGE_BYTES;
      at + 2n <= BigInt(log.length);
      at += PAGE_BYTES
    )
      log.writeUInt16LE(UNKNOWN_MAGIC, Number(at));
  };
  await server.query("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 100000))");
  const row = await deployment.waitForRow<{ status: string; comment: string }>(
    ROUND,
    (each) => each.status === 'INTERRUPTED',
  );
  expect(row.comment).toMatch(/WAL_UNREADABLE: log of PostgreSQL 17 at 0\/[0-9A-F]+: page magic D1FF/);
  const [event] = await deployment.sql<{ facts: Record<string, string> }>(
    "SELECT facts FROM CDB_OB_EVENT_HISTORY WHERE event = 'round_interrupted'",
  );
  const at = /at (0\/[0-9A-F]+): page magic/.exec(row.comment)?.[1] ?? '';
  expect(Number.parseInt(event?.facts['hole_begin']?.slice(2) ?? '', 16)).toBeLessThanOrEqual(
    Number.parseInt(at.slice(2), 16),
  );
  // Nothing of that page was archived, so what is archived restores.
  await deployment.sql(`ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} WITH 'pool_list=spare' WAIT`);
  proxy.change = undefined;
  await deployment.waitForRow<{ status: string; log_archive_round: string }>(
    ROUND,
    (each) => Number(each.log_archive_round) > 1 && each.status === 'DOING',
    90_000,
  );
}, 240_000);

import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Catalog } from '../../coordinator/catalog/catalog.ts';
import { openPostgresqlCatalog } from '../../coordinator/catalog/postgresql.ts';
import { describeCatalog } from '../support/catalog-suite.ts';
import { majors } from '../support/majors.ts';
import { createServer, type TestServer } from '../support/postgres.ts';

describe.each(majors(17))('the catalog on PostgreSQL %i', (major) => {
  let server: TestServer;
  let catalog: Catalog;
  beforeAll(async () => {
    server = await createServer({ major });
    catalog = (
      await openPostgresqlCatalog(`postgresql://postgres@127.0.0.1:${server.port}/postgres`, 'test', 1n)
    ).catalog;
  });
  afterAll(async () => {
    await catalog?.[Symbol.asyncDispose]();
    await server?.[Symbol.asyncDispose]();
  });

  describeCatalog(async () => catalog);

  test('the reader role reads every view, and can neither read nor write anything else', async () => {
    const login = catalog.readerLogin;
    if (login === undefined) throw new Error('a PostgreSQL catalog has a reader login');
    const client = new pg.Client({ ...login, ssl: false });
    await client.connect();
    try {
      for (const { name } of catalog.views) await client.query(`SELECT * FROM ${name.toUpperCase()}`);
      const refused = [
        'SELECT * FROM holdfast.parameters',
        'SET TRANSACTION READ WRITE; UPDATE holdfast.tenants SET tenant_name = tenant_name',
        'SET default_transaction_read_only = off; CREATE TABLE public.t (a int)',
        'SET default_transaction_read_only = off; CREATE TEMPORARY TABLE t (a int)',
        'SET default_transaction_read_only = off; DELETE FROM oceanbase.cdb_ob_event_history',
        "COPY (SELECT 1) TO PROGRAM 'true'",
        'SET ROLE postgres',
      ];
      for (const sql of refused)
        await expect(client.query(sql), sql).rejects.toThrow(/permission denied|read-only|must be superuser/);
    } finally {
      await client.end();
    }
  });

  test('opening it again migrates nothing twice and takes leadership over', async () => {
    const url = `postgresql://postgres@127.0.0.1:${server.port}/postgres`;
    const second = await openPostgresqlCatalog(url, 'second', 2n);
    await using taken = second.catalog;
    expect(second.epoch).toBeGreaterThan(1n);
    await expect(catalog.transaction(async () => undefined)).rejects.toMatchObject({
      code: 'BACKUP_IO_PROHIBITED',
    });
    await taken.transaction(async () => undefined);
  });

  test('its user needs to be no superuser, and the reader may do nothing but read', async () => {
    await server.query("CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'k'");
    await server.query('CREATE DATABASE kept OWNER keeper');
    await server.query('DROP OWNED BY holdfast_reader');
    await server.query('DROP ROLE holdfast_reader'); // whoever made it may change it
    const url = `postgresql://keeper:k@127.0.0.1:${server.port}/kept`;
    {
      await using kept = (await openPostgresqlCatalog(url, 'keeper', 1n)).catalog;
      expect(kept.readerLogin?.user).toBe('holdfast_reader');
    }
    await server.query('ALTER ROLE holdfast_reader CREATEDB');
    await expect(openPostgresqlCatalog(url, 'keeper', 2n)).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
      hint: expect.stringContaining('NOCREATEDB') as string,
    });
  });
});

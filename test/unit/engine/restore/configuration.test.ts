import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { layConfiguration } from '../../../../engine/postgres/restore/configuration.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-configuration-'));
});
afterEach(async () => await rm(directory, { recursive: true }));

const read = (name: string) => readFile(join(directory, name), 'utf8');

describe('configuration files', () => {
  test('that stood outside come into the data directory, includes put in their places', async () => {
    const external = new Map([
      [
        '/etc/pg/postgresql.conf',
        "data_directory = '/live'\nhba_file = '/etc/pg/hba'\ninclude_dir = 'conf.d' # more\nwork_mem = 4MB\n",
      ],
      ['/etc/pg/conf.d/b.conf', 'max_connections = 20\n'],
      ['/etc/pg/conf.d/a.conf', 'max_connections = 10\n'],
      ['/etc/pg/hba', 'local all all reject\n'],
    ]);
    const settings = await layConfiguration(directory, external, undefined);
    const text = await read('postgresql.conf');
    expect(text).toContain("#data_directory = '/live'");
    expect(settings.get('max_connections')).toBe('20');
    expect(settings.get('work_mem')).toBe('4MB');
    expect(await read('pg_hba.conf')).toBe('local all all reject\n');
    expect(await read('pg_ident.conf')).toBe('');
  });

  test('of the data directory stay byte for byte when nothing in them leads out', async () => {
    await writeFile(join(directory, 'postgresql.conf'), 'work_mem = 4MB\n');
    await writeFile(join(directory, 'postgresql.auto.conf'), "work_mem = '8MB'\n");
    await writeFile(join(directory, 'pg_hba.conf'), 'x\n');
    const settings = await layConfiguration(directory, new Map(), undefined);
    expect(await read('postgresql.conf')).toBe('work_mem = 4MB\n');
    expect(await read('pg_hba.conf')).toBe('x\n');
    expect(settings.get('work_mem')).toBe('8MB');
  });

  test('that nobody backed up are made closed', async () => {
    await layConfiguration(directory, new Map(), undefined);
    expect(await read('pg_hba.conf')).not.toContain('trust');
  });
});

import { describe, expect, test } from 'vitest';
import { judge, type PrecheckFacts } from '../../../engine/postgres/precheck.ts';

const GOOD: PrecheckFacts = {
  user: 'backup',
  major: 17,
  serverVersion: '17.10',
  systemIdentifier: 7n,
  standby: false,
  relationSegmentPages: 131_072,
  walLevel: 'replica',
  maxWalSenders: 10,
  usedWalSenders: 1,
  maxSlots: 10,
  usedSlots: 1,
  fullPageWrites: true,
  idleSlotTimeout: undefined,
  maxSlotWalKeepSize: '-1',
  replicationRight: true,
  readsAllSettings: true,
  runsBackupFunctions: true,
  walBlockSizeBytes: 8192,
  replication: { kind: 'open', systemIdentifier: 7n },
  directory: { kind: 'readable', path: '/data', systemIdentifier: 7n },
};

function failed(purpose: 'archive' | 'backup', facts: Partial<PrecheckFacts>): string[] {
  return judge(purpose, { ...GOOD, ...facts })
    .filter((item) => !item.passed)
    .map((item) => `${item.name}: ${item.fix}`);
}

describe('precheck', () => {
  test('a good server passes, and every item says what was found and what mends it', () => {
    for (const purpose of ['archive', 'backup'] as const) {
      const items = judge(purpose, GOOD);
      expect(items.filter((item) => !item.passed)).toEqual([]);
      for (const item of items)
        expect(`${item.found}|${item.wanted}|${item.fix}`).not.toMatch(/^\||\|\||\|$/);
    }
  });
  test('each thing that is wrong is named with its mending statement', () => {
    expect(failed('archive', { walLevel: 'minimal', maxWalSenders: 0, usedWalSenders: 0 })).toEqual([
      "wal_level: ALTER SYSTEM SET wal_level = 'replica'; then restart the server",
      'max_wal_senders: ALTER SYSTEM SET max_wal_senders = 10; then restart the server',
    ]);
    expect(failed('archive', { replicationRight: false })).toEqual([
      'replication_right: ALTER ROLE backup REPLICATION',
    ]);
    expect(failed('archive', { usedSlots: 10 })).toEqual([
      'max_replication_slots: ALTER SYSTEM SET max_replication_slots = 12; then restart the server',
    ]);
    expect(failed('archive', { readsAllSettings: false })).toEqual([
      'pg_read_all_settings: GRANT pg_read_all_settings TO backup',
    ]);
    expect(failed('archive', { standby: true })).toHaveLength(1);
    expect(failed('backup', { fullPageWrites: false })[0]).toMatch(/full_page_writes = 'on'/);
    expect(failed('backup', { relationSegmentPages: 262_144 })[0]).toMatch(/^segment_size: .*--with-segsize/);
    expect(failed('backup', { major: 13 })[0]).toMatch(/^server_version/);
    expect(failed('backup', { major: 14, runsBackupFunctions: false })[0]).toMatch(/pg_start_backup/);
  });
  test('a data directory of another server, or one that cannot be read, is refused for a backup only', () => {
    const other = { directory: { kind: 'readable', path: '/data', systemIdentifier: 8n } } as const;
    expect(failed('backup', other)).toHaveLength(1);
    expect(failed('archive', other)).toEqual([]);
    expect(failed('backup', { directory: { kind: 'unreadable', path: '', message: 'EACCES' } })[0]).toMatch(
      /data_directory/,
    );
  });
  test('a refused replication connection keeps the advice it came with', () => {
    const replication = { kind: 'refused', message: 'no pg_hba.conf entry', hint: 'Add a line' } as const;
    expect(failed('archive', { replication })).toEqual(['replication_connection: Add a line']);
  });
});

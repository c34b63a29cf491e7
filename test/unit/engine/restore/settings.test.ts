import { describe, expect, test } from 'vitest';
import {
  commentOut,
  formatSettings,
  parseList,
  readSettings,
  removeSettings,
} from '../../../../engine/postgres/restore/config-text.ts';
import {
  type CopyPlace,
  finalAutoConf,
  formatRestoreCommand,
  neutraliseConfig,
  type RecoveryTarget,
  recoveryAutoConf,
} from '../../../../engine/postgres/restore/settings.ts';
import { parseLsn, toTimeline } from '../../../../foundation/lsn.ts';

function place(change: Partial<CopyPlace> = {}): CopyPlace {
  return {
    major: 17,
    dataDirectory: '/copy',
    port: 5555,
    socketDirectory: '/copy.holdfast/socket',
    sourceSettings: new Map(),
    unit: undefined,
    ...change,
  };
}

function recovery(source: string, target: RecoveryTarget, change: Partial<CopyPlace> = {}) {
  const plan = { target, timeline: toTimeline(3), restoreCommand: 'fetch' };
  return readSettings(recoveryAutoConf(source, place(change), plan, '/copy.holdfast/hba.conf'));
}

describe('the text of a configuration file', () => {
  test('gives its settings, the last line of a name winning', () => {
    const text = "a = 1\n# b = 2\n  B 'it''s' # said\nA='x\\'y'\nc.d = on\ninclude_dir 'conf.d'\n";
    expect([...readSettings(text)]).toEqual([
      ['a', "x'y"],
      ['b', "it's"],
      ['c.d', 'on'],
      ['include_dir', 'conf.d'],
    ]);
  });

  test('survives writing and reading, whatever the value holds', () => {
    const settings = { a: "it's \\ here", b: '', 'c.d': '"/x, y"' };
    expect(Object.fromEntries(readSettings(formatSettings(settings)))).toEqual(settings);
  });

  test('loses the lines that are refused and no other', () => {
    expect(removeSettings('a = 1\nb = 2\n', (name) => name === 'a')).toBe('b = 2\n');
    expect(commentOut('a = 1\nb = 2\n', (name) => name === 'a')).toBe('#a = 1\nb = 2\n');
    expect(commentOut('a = 1\n', () => false)).toBeUndefined();
  });

  test('has lists whose members may be quoted', () => {
    expect(parseList('a, "b, c" ,d')).toEqual(['a', 'b, c', 'd']);
    expect(parseList('')).toEqual([]);
  });
});

describe('the settings of a recovering copy', () => {
  test('keep it from acting on the world', () => {
    const source = "primary_conninfo = 'host=primary'\narchive_mode = on\n";
    const sourceSettings = new Map([['external_pid_file', '/run/live.pid']]);
    const settings = recovery(source, { kind: 'endOfLog' }, { sourceSettings });
    for (const [name, value] of [
      ['hot_standby', 'off'],
      ['archive_mode', 'off'],
      ['synchronous_standby_names', ''],
      ['primary_conninfo', ''],
      ['primary_slot_name', ''],
      ['listen_addresses', '127.0.0.1'],
      ['port', '5555'],
      ['max_logical_replication_workers', '0'],
      ['ssl', 'off'],
      ['external_pid_file', '/copy/external.pid'],
      ['hba_file', '/copy.holdfast/hba.conf'],
      ['recovery_target_timeline', '3'],
      ['recovery_target_action', 'promote'],
    ] as const)
      expect(settings.get(name), name).toBe(value);
  });

  test('hold one target and none of an earlier recovery', () => {
    const old = "recovery_target_time = '2020-01-01'\nrecovery_target_name = 'x'\nrestore_command = 'old'\n";
    const lsn = recovery(old, { kind: 'lsn', lsn: parseLsn('1/ABC'), inclusive: false });
    expect(lsn.get('recovery_target_lsn')).toBe('1/ABC');
    expect(lsn.get('recovery_target_inclusive')).toBe('off');
    expect(lsn.get('restore_command')).toBe('fetch');
    expect([...lsn.keys()].filter((name) => /^recovery_target(_time|_name|_xid)?$/.test(name))).toEqual([]);
    expect(recovery(old, { kind: 'immediate' }).get('recovery_target')).toBe('immediate');
    const end = recovery(old, { kind: 'endOfLog' });
    expect([...end.keys()].filter((name) => /^recovery_target(_lsn|_time|_inclusive)?$/.test(name))).toEqual(
      [],
    );
  });

  test('have at least the limits of the source, and other work shut off', () => {
    const sourceSettings = new Map([
      ['max_connections', '300'],
      ['max_prepared_transactions', '7'],
      ['shared_preload_libraries', 'pg_stat_statements, pg_cron, $libdir/timescaledb'],
    ]);
    const unit = { maxMemoryBytes: 1024n ** 3n, maxSessions: 50 };
    const settings = recovery('', { kind: 'endOfLog' }, { sourceSettings, unit });
    expect(settings.get('max_connections')).toBe('300');
    expect(settings.get('max_prepared_transactions')).toBe('7');
    expect(settings.get('shared_preload_libraries')).toBe('"pg_stat_statements", "$libdir/timescaledb"');
    expect(settings.get('timescaledb.max_background_workers')).toBe('0');
    expect(settings.get('shared_buffers')).toBe('262144kB');
    const final = readSettings(finalAutoConf('', place({ sourceSettings, unit })));
    expect(final.get('max_connections')).toBe('50');
    expect(final.get('max_prepared_transactions')).toBe('7');
    expect(final.has('restore_command')).toBe(false);
    expect(final.has('recovery_target_timeline')).toBe(false);
    expect(final.get('archive_mode')).toBe('off');
    expect(final.get('hba_file')).toBe('/copy/pg_hba.conf');
  });

  test('name nothing that the version does not know', () => {
    expect(recovery('', { kind: 'endOfLog' }, { major: 14 }).get('stats_temp_directory')).toBe('pg_stat_tmp');
    expect(recovery('', { kind: 'endOfLog' }, { major: 17 }).has('stats_temp_directory')).toBe(false);
    expect(recovery('', { kind: 'endOfLog' }, { major: 17 }).has('io_method')).toBe(false);
  });
});

test("a postgresql.conf loses what leads to the source's files and keeps all else", () => {
  const text = [
    "data_directory = '/var/lib/postgresql/15/main'",
    "hba_file = '/etc/pg_hba.conf'",
    "include '/etc/more.conf'",
    "include 'near.conf'",
    "recovery_target_lsn = '0/1'",
    'work_mem = 4MB',
  ].join('\n');
  const neutral = neutraliseConfig(text, true);
  expect([...readSettings(neutral ?? '').keys()]).toEqual(['include', 'work_mem']);
  expect(neutraliseConfig('work_mem = 4MB\n', true)).toBeUndefined();
});

test("a restore_command's path survives the shell and PostgreSQL", () => {
  const quoted = `'/it'\\''s 100%%/fetch.sh'`;
  const ready = `'/it'\\''s 100%%/ready'`;
  expect(formatRestoreCommand("/it's 100%/fetch.sh", "/it's 100%/ready")).toBe(
    `test -r ${quoted} || exit 200; test -e ${ready}/"%f" || exec /bin/sh ${quoted} "%f" "%p"; ` +
      `mv -f ${ready}/"%f" "%p" || exit 200`,
  );
  expect(() => formatRestoreCommand('/a\nb', '/a')).toThrow();
  expect(() => formatRestoreCommand('/a', '/a\nb')).toThrow();
});

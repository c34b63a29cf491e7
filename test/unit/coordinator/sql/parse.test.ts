import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KEYWORDS } from '../../../../coordinator/sql/grammar/keywords.ts';
import { type ParsedStatement, parseSql } from '../../../../coordinator/sql/parse.ts';
import type { AdminStatement } from '../../../../coordinator/sql/statements.ts';
import { isError } from '../../../../foundation/errors.ts';

function parseAdmin(sql: string): AdminStatement {
  const [first] = parseSql(sql);
  if (first?.kind !== 'admin') throw new Error(`not an admin statement: ${sql}`);
  return first.statement;
}

function failure(sql: string) {
  try {
    parseSql(sql);
  } catch (error) {
    if (isError(error, 'SYNTAX_ERROR')) return error;
    throw error;
  }
  throw new Error(`no syntax error: ${sql}`);
}

const backup = { kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: false };
const restore = {
  kind: 'restore',
  newTenant: 'new',
  sourceTenant: 'old',
  options: { pool_list: 'p' },
  preview: false,
  wait: false,
};
const RESTORE = 'ALTER SYSTEM RESTORE new FROM old';

const FORMS: readonly (readonly [sql: string, statement: object])[] = [
  [
    "ALTER SYSTEM SET backup_dest = 'file:///b'",
    { kind: 'setParameter', name: 'backup_dest', value: 'file:///b' },
  ],
  [
    'alter system set Backup_Concurrency = 4',
    { kind: 'setParameter', name: 'backup_concurrency', value: '4' },
  ],
  ['ALTER SYSTEM SET query_timeout TO 30s', { kind: 'setParameter', name: 'query_timeout', value: '30s' }],
  [
    'ALTER SYSTEM SET backup_page_check = off TENANT = t',
    { kind: 'setParameter', name: 'backup_page_check', value: 'off', tenant: 't' },
  ],
  [
    "ALTER SYSTEM SET LOG_ARCHIVE_DEST='LOCATION=file:///a' TENANT = t",
    { kind: 'setParameter', name: 'log_archive_dest', value: 'LOCATION=file:///a', tenant: 't' },
  ],
  ['SHOW PARAMETERS', { kind: 'showParameters' }],
  ["SHOW PARAMETERS LIKE 'backup%' TENANT = t", { kind: 'showParameters', like: 'backup%', tenant: 't' }],
  ['ALTER SYSTEM ARCHIVELOG', { kind: 'archiveLog', tenants: 'all' }],
  ['ALTER SYSTEM ARCHIVELOG TENANT = ALL', { kind: 'archiveLog', tenants: 'all' }],
  [
    'ALTER SYSTEM ARCHIVELOG TENANT = a, B, "C", a DESCRIPTION = \'d\'',
    { kind: 'archiveLog', tenants: ['a', 'b', 'C'], description: 'd' },
  ],
  ['ALTER SYSTEM NOARCHIVELOG TENANT a', { kind: 'noArchiveLog', tenants: ['a'] }],
  ['ALTER SYSTEM CHECK', { kind: 'check', wait: false }],
  ['ALTER SYSTEM CHECK TENANT = t WAIT', { kind: 'check', tenant: 't', wait: true }],
  ['ALTER SYSTEM BACKUP DATABASE', backup],
  ['ALTER SYSTEM BACKUP FULL DATABASE WAIT', { ...backup, wait: true }],
  ['ALTER SYSTEM BACKUP INCREMENTAL DATABASE', { ...backup, mode: 'incremental' }],
  ['ALTER SYSTEM BACKUP SYNTHETIC TENANT = t', { ...backup, mode: 'synthetic', tenants: ['t'] }],
  [
    "ALTER SYSTEM BACKUP TENANT t1,t2 TO 'file:///x' PLUS ARCHIVELOG DESCRIPTION = 'it''s' WAIT",
    {
      ...backup,
      tenants: ['t1', 't2'],
      to: 'file:///x',
      plusArchivelog: true,
      description: "it's",
      wait: true,
    },
  ],
  ['ALTER SYSTEM CANCEL BACKUP', { kind: 'cancelBackup', tenants: 'all', force: false }],
  ['ALTER SYSTEM CANCEL BACKUP TENANT = t', { kind: 'cancelBackup', tenants: ['t'], force: false }],
  ['ALTER SYSTEM CANCEL ALL BACKUP FORCE', { kind: 'cancelBackup', tenants: 'all', force: true }],
  [`${RESTORE} WITH 'pool_list=p'`, restore],
  [`ALTER SYSTEM RESTORE TENANT new FROM old WITH 'pool_list=p' WAIT`, { ...restore, wait: true }],
  [
    `${RESTORE} AT 'file:///b' UNTIL '2026-01-01 00:00:00' WITH 'pool_list=p' PREVIEW`,
    {
      ...restore,
      at: 'file:///b',
      until: { kind: 'time', time: '2026-01-01 00:00:00', consistent: false },
      preview: true,
    },
  ],
  [
    `${RESTORE} BACKUPSET = 3 UNTIL TIME = 'x' CONSISTENT EXCLUSIVE TIMELINE = 2 AS STANDBY OF 'host=h' WITH 'pool_list=p' DESCRIPTION = 'd'`,
    {
      ...restore,
      backupSet: 3n,
      until: { kind: 'time', time: 'x', consistent: true },
      inclusive: false,
      timeline: 2,
      standbyOf: 'host=h',
      description: 'd',
    },
  ],
  [
    `${RESTORE} UNTIL SCN = '16/B374D848' INCLUSIVE WITH 'pool_list=p'`,
    {
      ...restore,
      until: { kind: 'scn', positions: [{ group: undefined, lsn: 0x16b374d848n }] },
      inclusive: true,
    },
  ],
  [
    `${RESTORE} UNTIL SCN = 'a:0/1,b:0/2' WITH 'pool_list=p'`,
    {
      ...restore,
      until: {
        kind: 'scn',
        positions: [
          { group: 'a', lsn: 1n },
          { group: 'b', lsn: 2n },
        ],
      },
    },
  ],
  [
    `${RESTORE} UNTIL SCN = 12345678901 WITH 'pool_list=p'`,
    { ...restore, until: { kind: 'scn', positions: [{ group: undefined, lsn: 12345678901n }] } },
  ],
  [`${RESTORE} UNTIL XID = 77 WITH 'pool_list=p'`, { ...restore, until: { kind: 'xid', xid: 77n } }],
  [`${RESTORE} UNTIL NAME = 'rp' WITH 'pool_list=p'`, { ...restore, until: { kind: 'name', name: 'rp' } }],
  [
    `${RESTORE} UNTIL IMMEDIATE WITH 'POOL_LIST=p&tablespace_map=/a%26b:/c'`,
    { ...restore, until: { kind: 'immediate' }, options: { pool_list: 'p', tablespace_map: '/a&b:/c' } },
  ],
  [
    `ALTER SYSTEM RESTORE new FROM 'data,log' WITH 'pool_list=p'`,
    { ...restore, sourceTenant: undefined, at: 'data,log' },
  ],
  ['ALTER SYSTEM RESTORE a.b, c.d FOR x FROM y', { kind: 'knownByName', name: 'RESTORE of single tables' }],
  ['ALTER SYSTEM CANCEL RESTORE t', { kind: 'cancelRestore', tenant: 't' }],
  ['SHOW RESTORE WINDOWS', { kind: 'showRestoreWindows' }],
  ['SHOW RESTORE WINDOWS TENANT = t', { kind: 'showRestoreWindows', tenant: 't' }],
  ['SHOW RESTORE PREVIEW', { kind: 'showRestorePreview' }],
  [
    "CREATE RESOURCE UNIT u MAX_MEMORY '1G', MAX_SESSION_NUM 200, MAX_CPU = 1.5, MIN_MEMORY 512M",
    {
      kind: 'createResourceUnit',
      name: 'u',
      maxMemory: '1G',
      maxSessionNum: 200,
      maxCpu: 1.5,
      minMemory: '512M',
    },
  ],
  [
    "CREATE RESOURCE POOL p UNIT = 'u', UNIT_NUM = 1, ZONE_LIST = ('z1','z2')",
    { kind: 'createResourcePool', name: 'p', unit: 'u', unitNum: 1, zones: ['z1', 'z2'] },
  ],
  ['DROP RESOURCE POOL p', { kind: 'dropResourcePool', name: 'p' }],
  ['DROP RESOURCE UNIT u', { kind: 'dropResourceUnit', name: 'u' }],
  ['ALTER SYSTEM DROP TENANT t', { kind: 'dropTenant', tenant: 't', force: false }],
  ["SET ENCRYPTION ON IDENTIFIED BY 'pw' ONLY", { kind: 'setEncryption', password: 'pw', only: true }],
  ['ALTER SYSTEM ROTATE BACKUP KEY', { kind: 'rotateBackupKey', tenants: 'all' }],
  ['alter system rotate backup key tenant = a, b', { kind: 'rotateBackupKey', tenants: ['a', 'b'] }],
  ['SET ENCRYPTION OFF', { kind: 'setEncryption', only: false }],
  ["SET DECRYPTION IDENTIFIED BY 'a','b'", { kind: 'setDecryption', passwords: ['a', 'b'] }],
  [
    "ALTER SYSTEM ADD BACKUP SCHEDULE 'n' TENANT = t FULL '0 1 * * 0' INCREMENTAL '0 1 * * 1-6' TIMEZONE 'UTC'",
    {
      kind: 'addBackupSchedule',
      name: 'n',
      tenants: ['t'],
      full: '0 1 * * 0',
      incremental: '0 1 * * 1-6',
      timezone: 'UTC',
    },
  ],
  [
    "ALTER SYSTEM PAUSE BACKUP SCHEDULE 'n'",
    { kind: 'changeBackupSchedule', action: 'pause', name: 'n', tenants: 'all' },
  ],
  [
    "ALTER SYSTEM ADD DELETE BACKUP POLICY = 'default' RECOVERY_WINDOW = '7d' REDUNDANCY 2",
    { kind: 'addDeletePolicy', name: 'default', recoveryWindow: '7d', redundancy: 2, tenants: 'all' },
  ],
  [
    "ALTER SYSTEM DROP DELETE BACKUP POLICY 'default'",
    { kind: 'dropDeletePolicy', name: 'default', tenants: 'all' },
  ],
  [
    'ALTER SYSTEM DELETE BACKUPSET 3 COPY 1 PREVIEW',
    { kind: 'deleteBackup', object: { kind: 'backupSet', id: 3n }, copy: 1, tenants: 'all', preview: true },
  ],
  [
    'ALTER SYSTEM DELETE BACKUPROUND 1',
    { kind: 'deleteBackup', object: { kind: 'backupRound', id: 1n }, tenants: 'all', preview: false },
  ],
  [
    'ALTER SYSTEM DELETE OBSOLETE BACKUP',
    { kind: 'deleteObsoleteBackup', expired: false, tenants: 'all', preview: false },
  ],
  ['ALTER SYSTEM CANCEL DELETE BACKUP', { kind: 'cancelDeleteBackup', tenants: 'all' }],
  [
    "ALTER SYSTEM CHANGE BACKUPSET 3 KEEP UNTIL '2027-01-01'",
    { kind: 'changeBackupSetKeep', id: 3n, keep: { kind: 'until', time: '2027-01-01' }, tenants: 'all' },
  ],
  [
    "ALTER SYSTEM VALIDATE DATABASE MAX_AGE '30d' WAIT",
    { kind: 'validate', tenants: 'all', maxAge: '30d', wait: true },
  ],
  [
    'ALTER SYSTEM VALIDATE BACKUPSET 3',
    { kind: 'validate', object: { kind: 'backupSet', id: 3n }, tenants: 'all', wait: false },
  ],
  ['ALTER SYSTEM VALIDATE TENANT = t', { kind: 'validate', tenants: ['t'], wait: false }],
  ['ALTER SYSTEM CANCEL VALIDATE 9', { kind: 'cancelValidate', job: 9n }],
  [
    "ALTER SYSTEM BACKUP BACKUPSET ALL NOT BACKED UP 2 TIMES TENANT = t BACKUP_BACKUP_DEST = 'u'",
    {
      kind: 'backupBackup',
      what: 'backupSet',
      notBackedUpTimes: 2,
      withActive: false,
      tenants: ['t'],
      to: 'u',
      wait: false,
    },
  ],
  [
    "ALTER SYSTEM BACKUP BACKUPPIECE = 4 WITH ACTIVE TENANT_NAME = 'x'",
    { kind: 'backupBackup', what: 'backupPiece', id: 4n, withActive: true, tenants: ['x'], wait: false },
  ],
  ['ALTER SYSTEM CANCEL BACKUP BACKUPSET', { kind: 'cancelBackupBackup', what: 'backupSet' }],
  ['ALTER SYSTEM START BACKUP ARCHIVELOG', { kind: 'backupArchivelogCopy', action: 'start' }],
  [
    "ALTER SYSTEM CREATE RESTORE POINT 'rp' TENANT = t",
    { kind: 'createRestorePoint', name: 'rp', tenants: ['t'] },
  ],
  ["ALTER SYSTEM ADD RESTORE SOURCE 'a','b'", { kind: 'addRestoreSource', uris: ['a', 'b'] }],
  ['ALTER SYSTEM CLEAR RESTORE SOURCE', { kind: 'clearRestoreSource' }],
  ["ALTER SYSTEM IMPORT BACKUP FROM 'u'", { kind: 'importBackup', from: 'u' }],
  ["ALTER SYSTEM BACKUP KEY TO 'p' ENCRYPTED BY 'x'", { kind: 'knownByName', name: 'BACKUP KEY' }],
  ['ALTER SYSTEM RECOVER STANDBY TENANT = t UNTIL UNLIMITED', { kind: 'knownByName', name: 'RECOVER' }],
];

test.for(FORMS)('reads %s', ([sql, statement]) => {
  expect(parseAdmin(sql)).toEqual(statement);
  expect(parseAdmin(` /* a */ ${sql.replaceAll(' ', '\n ')} -- end\n;`)).toMatchObject({
    kind: 'kind' in statement ? statement.kind : '',
  });
});

test('keywords other than ALL, DATABASE and TENANT are names too', () => {
  expect(parseAdmin('ALTER SYSTEM DROP TENANT backup')).toMatchObject({ tenant: 'backup' });
  expect(parseAdmin('ALTER SYSTEM RESTORE restore FROM name')).toMatchObject({
    newTenant: 'restore',
    sourceTenant: 'name',
  });
});

test.for([
  ['ALTER SYSTEM BAKUP DATABASE', 14, 'BACKUP'],
  ['ALTER SYTEM ARCHIVELOG', 7, 'SYSTEM'],
  ['ALTER SYSTEM ARCHIVELOG TENNANT = t', 25, 'TENANT'],
  ['SELCT 1', 1, 'SELECT'],
  ['SHOW PARAMTERS', 6, 'PARAMETERS'],
  ["SELECT 1;\nALTER SYSTEM RESTORE a FORM b WITH 'x=y'", 34, 'FROM'],
  ["SELECT '😀'; ALTER SYSTEM FOO", 26, undefined],
  ['ALTER SYSTEM ARCHIVELOG TENANT =', 33, undefined],
  ['ALTER SYSTEM BACKUP DATABASE now', 30, undefined],
  ['ALTER SYSTEM CANCEL VALIDATE 99999999999999999999', 30, undefined],
  ["ALTER SYSTEM RESTORE a FROM b UNTIL SCN = 'x' WITH 'p=q'", 43, undefined],
  ["ALTER SYSTEM RESTORE a FROM b WITH 'p'", 36, undefined],
  ["SELECT 'open", 8, undefined],
  ['SELECT 1 /* open /* */', 10, undefined],
  ['SELECT $a$ open $b$', 8, undefined],
  ['SELECT "open', 8, undefined],
  ['42', 1, undefined],
] as const)('points at the character that is wrong in %s', ([sql, position, meant]) => {
  const error = failure(sql);
  expect(error.position).toBe(position);
  if (meant !== undefined) expect(error.hint).toContain(meant);
});

test('says what was expected', () => {
  expect(failure('ALTER SYSTEM BACKUP DATABASE TO').message).toBe(
    'syntax error at end of input: expected a string',
  );
  expect(failure('ALTER SYSTEM CANCEL').message).toContain('ALL, BACKUP, DELETE, RESTORE, VALIDATE');
});

test('splits at semicolons outside of quotes and comments', () => {
  const sql = `select ';', "a;b", $$;$$, $x$ ; $$ ; $x$, e'\\';' /* ; /* ; */ ; */ ; -- ;\n ; alter system archivelog;`;
  expect(parseSql(sql).map(({ kind }) => kind)).toEqual(['reading', 'admin']);
  expect(parseSql(' ; -- nothing\n')).toEqual([]);
});

test('a reading statement stands where it stood in the string', () => {
  const [, second] = parseSql("SELECT '😀';\n SELECT nope");
  expect(second).toMatchObject({ kind: 'reading', sql: `${' '.repeat(11)}\n SELECT nope` });
});

test.for([
  'SELECT 1',
  'values (1)',
  'TABLE x',
  'WITH a AS (SELECT 1) SELECT * FROM a',
  '(SELECT 1) UNION (SELECT 2)',
  'SHOW search_path',
  'EXPLAIN SELECT 1',
  'EXPLAIN (ANALYZE, COSTS off) SELECT 1',
  'EXPLAIN ANALYZE VERBOSE VALUES (1)',
  'BEGIN',
  'START TRANSACTION READ ONLY',
  'COMMIT',
  'END',
  'ROLLBACK TO a',
  'SAVEPOINT a',
  'SET search_path = a',
  "SET LOCAL TimeZone = 'UTC'",
  "SET TIME ZONE 'UTC'",
  'SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY',
  "SET NAMES 'UTF8'",
  'SET client_encoding TO utf8',
  'RESET ALL',
  'DISCARD ALL',
  'DEALLOCATE ALL',
  'DECLARE c CURSOR WITH HOLD FOR SELECT 1',
  'FETCH 1 FROM c',
  'CLOSE c',
])('lets %s through to the reader', (sql) => {
  expect(parseSql(sql).map(({ kind }) => kind)).toEqual(['reading']);
});

test.for([
  'INSERT INTO t VALUES (1)',
  'UPDATE t SET a = 1',
  'DELETE FROM t',
  'MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE',
  'TRUNCATE t',
  "COPY t TO PROGRAM 'id'",
  'COPY t FROM STDIN',
  'SELECT 1 INTO t',
  'WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a',
  'WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a',
  'EXPLAIN ANALYZE INSERT INTO t VALUES (1)',
  'EXPLAIN (ANALYZE) DELETE FROM t',
  'EXPLAIN EXECUTE x',
  'DO $$ BEGIN END $$',
  'CREATE TABLE t ()',
  'DROP TABLE t',
  'ALTER TABLE t ADD a int',
  'SET ROLE postgres',
  'RESET ROLE',
  'SET SESSION AUTHORIZATION postgres',
  'SET LOCAL ROLE postgres',
  'SET standard_conforming_strings = off',
  "SET client_encoding = 'SJIS'",
  'SET statement_timeout = 0',
  'PREPARE a AS DELETE FROM t',
  'EXECUTE a',
  'CALL f()',
  'LOCK t',
  'VACUUM',
  'NOTIFY x',
  "COMMIT PREPARED 'a'",
  'DECLARE c CURSOR FOR DELETE FROM t',
  'GRANT ALL ON t TO u',
  "LOAD 'x'",
  'IMPORT FOREIGN SCHEMA s FROM SERVER t INTO u',
])('refuses %s', (sql) => {
  const [statement] = parseSql(sql) as readonly [ParsedStatement];
  expect(statement.kind === 'refused' && statement.error.code).toBe('PRIVILEGE');
});

test('arbitrary input gives statements or a syntax error, soon', () => {
  const word = fc.constantFrom(
    ...KEYWORDS,
    'SELECT',
    'x',
    '"q"',
    "'s'",
    '7',
    '=',
    ',',
    '(',
    ')',
    '.',
    ';',
    '$$',
    "'",
    '"',
    '/*',
    '*/',
    '--',
    '\n',
    "e'",
    '\\',
    '1G',
    '😀',
    '\0',
  );
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 200 }),
    fc.array(word, { maxLength: 60 }).map((words) => words.join(' ')),
    fc.array(word, { maxLength: 20 }).map((words) => `ALTER SYSTEM ${words.join(' ')}`),
  );
  fc.assert(
    fc.property(text, (sql) => {
      try {
        for (const { text: own } of parseSql(sql)) expect(sql).toContain(own);
      } catch (error) {
        if (!isError(error, 'SYNTAX_ERROR')) throw error;
        expect(error.position).toBeGreaterThanOrEqual(1);
        expect(error.position).toBeLessThanOrEqual(Array.from(sql).length + 1);
      }
    }),
    { numRuns: 2000 },
  );
});

test.for(["'", '"', '/*', '$a$', "e'", '(', "''", 'a ', ';', '$', "ALTER SYSTEM SET a='"])(
  'half a million characters of %s take no time',
  (piece) => {
    const began = performance.now();
    try {
      parseSql(piece.repeat(500_000 / piece.length));
    } catch (error) {
      if (!isError(error, 'SYNTAX_ERROR')) throw error;
    }
    expect(performance.now() - began).toBeLessThan(10_000);
  },
);

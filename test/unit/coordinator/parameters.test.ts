import { randomBytes } from 'node:crypto';
import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { parseRestoreOptions } from '../../../coordinator/commands/restore-options.ts';
import { coordinatorConfigSchema, parseListen } from '../../../coordinator/config.ts';
import { judgeRetention } from '../../../coordinator/jobs/check-job.ts';
import {
  type Candidates,
  chooseLeader,
  choosePlace,
  chooseRestoreServer,
  chooseSuccessor,
  claimants,
} from '../../../coordinator/jobs/placement.ts';
import { secretBox } from '../../../coordinator/parameters/secrets.ts';
import { checkParameterValue, findParameter, PARAMETERS } from '../../../coordinator/parameters/table.ts';
import { CheckItemSchema } from '../../../proto/gen/holdfast/v1/agent_pb.ts';

function check(name: string, value: string): string {
  const parameter = findParameter(name);
  if (parameter === undefined) throw new Error(name);
  return checkParameterValue(parameter, value);
}

describe('parameters', () => {
  test('every default is a good value of its own parameter', () => {
    for (const parameter of PARAMETERS)
      expect(checkParameterValue(parameter, parameter.defaultValue)).toBe(parameter.defaultValue);
  });

  test.each([
    ['log_archive_checkpoint_interval', '99ms'],
    ['log_archive_checkpoint_interval', '2h'],
    ['log_archive_checkpoint_interval', '1'],
    ['backup_compression', 'zstd:20'],
    ['backup_concurrency', '-1'],
    ['backup_concurrency', '101'],
    ['backup_page_check', 'maybe'],
    ['backup_log_archive_option', 'SOMETIMES'],
    ['log_archive_piece_switch_interval', '1d'],
    ['backup_net_limit', '1kB'],
  ])('%s refuses %s, and says type, range and default', (name, value) => {
    const parameter = findParameter(name);
    expect(() => check(name, value)).toThrowError(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        detail: expect.stringContaining(parameter?.range ?? '-'),
        hint: expect.stringContaining(`'${parameter?.defaultValue}'`),
      }),
    );
  });

  test('values are stored in one form', () => {
    expect(check('backup_log_archive_option', 'mandatory compression = disable')).toBe(
      'MANDATORY COMPRESSION=none',
    );
    expect(check('backup_log_archive_option', 'OPTIONAL')).toBe('OPTIONAL COMPRESSION=zstd');
    expect(check('backup_compression', 'ZSTD')).toBe('zstd:1');
    expect(check('backup_page_check', 'TRUE')).toBe('on');
  });
});

describe('secrets', () => {
  test('what was encrypted is read back, never twice the same, and refused under another key or when changed', () => {
    const box = secretBox(randomBytes(32), 'a');
    const stored = box.encrypt('s3://b?access_key=ü');
    expect(stored).not.toContain('access_key');
    expect(box.encrypt('s3://b?access_key=ü')).not.toBe(stored);
    expect(box.decrypt(stored)).toBe('s3://b?access_key=ü');
    const refused = expect.objectContaining({ code: 'INVALID_CONFIG' });
    expect(() => secretBox(randomBytes(32), 'b').decrypt(stored)).toThrowError(refused);
    expect(() => box.decrypt(`${stored.slice(0, -4)}AAA=`)).toThrowError(refused);
  });
});

describe('restore options', () => {
  test('a pool is required', () => {
    expect(() => parseRestoreOptions({})).toThrowError(/needs a resource pool/);
  });
  test('unknown options are refused with a suggestion, later ones by name', () => {
    expect(() => parseRestoreOptions({ pool_list: 'p', concurency: '2' })).toThrowError(
      expect.objectContaining({ hint: expect.stringContaining('"concurrency"') }),
    );
    expect(() => parseRestoreOptions({ pool_list: 'p', databases: 'x' })).toThrowError(
      expect.objectContaining({ code: 'NOT_SUPPORTED' }),
    );
  });
  test('tablespaces are mapped to directories of their own', () => {
    const options = parseRestoreOptions({ pool_list: 'p,q', tablespace_map: '/a:/b,/c:/d' });
    expect(options.tablespaceMap).toEqual({ '/a': '/b', '/c': '/d' });
    expect(options.pools).toEqual(['p', 'q']);
    expect(() => parseRestoreOptions({ pool_list: 'p', tablespace_map: '/a:/b,/c:/b' })).toThrowError(
      /one directory/,
    );
    expect(() => parseRestoreOptions({ pool_list: 'p', tablespace_map: 'a:b' })).toThrowError(
      /not a tablespace/,
    );
  });
});

describe('what a slot may retain', () => {
  const item = (found: string) =>
    create(CheckItemSchema, { name: 'max_slot_wal_keep_size', passed: true, found });
  test.each([
    ['-1', false, '16GB', false],
    ['16GB', false, '16GB', true],
    ['17GB', false, '16GB', false],
    ['-1', true, '16GB', true],
    ['1GB', true, '16GB', false],
  ])('%s with MANDATORY %s and at most %s: %s', (found, mandatory, maxRetained, passed) => {
    const judged = judgeRetention(item(found), { mandatory, maxRetained });
    expect(judged.passed).toBe(passed);
    expect(judged.fix === '').toBe(passed);
  });
});

test.each([
  ['0', true, true],
  ['1d', true, false],
  ['1d', false, true],
])('idle_replication_slot_timeout %s with MANDATORY %s: %s', (found, mandatory, passed) => {
  const item = create(CheckItemSchema, {
    name: 'idle_replication_slot_timeout',
    passed: true,
    found,
    fix: 'f',
  });
  expect(judgeRetention(item, { mandatory, maxRetained: '16GB' }).passed).toBe(passed);
});

describe('placement', () => {
  const instance = (server_id: bigint, role: 'PRIMARY' | 'STANDBY') => ({
    server_id,
    instance: `i${server_id}`,
    tenant_id: 1001n,
    partition_group: 'p0',
    restored: false,
    role,
    system_identifier: '1',
    timeline: 1n,
    server_version: '17',
    error: '',
    host: '',
    port: 0,
    data_directory: '',
    lsn: null,
    max_slot_wal_keep_size: '',
    idle_slot_timeout: '',
    advice: '',
    membership: 'MEMBER' as const,
    clone_of: '',
  });
  const server = (server_id: bigint, zone: string) => ({
    server_id,
    agent_uuid: String(server_id),
    ip: '127.0.0.1',
    port: 1,
    zone,
    status: 'ACTIVE' as const,
    heartbeat_us: 0n,
  });
  const candidates: Candidates = {
    instances: [instance(1n, 'STANDBY'), instance(2n, 'PRIMARY')],
    servers: [server(1n, 'z1'), server(2n, 'z2'), server(3n, 'z2')],
    attached: new Set([1n, 2n, 3n]),
  };
  test('archiving follows the leader, wherever its agent is attached', () => {
    expect(choosePlace('ARCHIVE', 1001n, 'p0', candidates)).toEqual({ serverId: 2n, instance: 'i2' });
    const away = { ...candidates, attached: new Set([1n]) };
    expect(choosePlace('ARCHIVE', 1001n, 'p0', away)).toBeUndefined();
    expect(choosePlace('CHECK', 1001n, 'p0', away)).toEqual({ serverId: 1n, instance: 'i1' });
  });
  test('of several primaries the newest timeline leads; it moves the archiver, a DOWN or older one does not', () => {
    const at = (role: 'PRIMARY' | 'STANDBY', id: bigint, timeline: bigint, system = '1') => ({
      ...instance(id, role),
      timeline,
      system_identifier: system,
    });
    const groups = [
      { tenant_id: 1001n, partition_group: 'p0', joined_us: 0n, left_us: 0n, system_identifier: '1' },
    ];
    const of = (...instances: readonly ReturnType<typeof at>[]): Candidates => ({
      ...candidates,
      instances,
      groups,
    });
    const present = { serverId: 1n, instance: 'i1' };
    const successor = (...instances: readonly ReturnType<typeof at>[]) =>
      chooseSuccessor(1001n, 'p0', of(...instances), present)?.instance;
    expect(successor(at('PRIMARY', 1n, 1n), at('PRIMARY', 2n, 2n))).toBe('i2');
    expect(successor(at('STANDBY', 1n, 1n), at('PRIMARY', 2n, 2n))).toBe('i2');
    expect(successor(at('PRIMARY', 1n, 2n), at('PRIMARY', 2n, 1n))).toBeUndefined();
    expect(successor(at('PRIMARY', 1n, 1n), at('PRIMARY', 2n, 1n))).toBeUndefined();
    // A member that is another system's is none.
    expect(successor(at('PRIMARY', 1n, 1n), at('PRIMARY', 2n, 9n, '7'))).toBeUndefined();
    expect(chooseLeader(1001n, 'p0', of(at('PRIMARY', 1n, 1n), at('PRIMARY', 2n, 9n, '7')))?.instance).toBe(
      'i1',
    );
    expect(chooseLeader(1001n, 'p0', of(at('PRIMARY', 2n, 9n, '7')))?.instance).toBe('i2');
    expect(claimants(1001n, 'p0', of(at('PRIMARY', 1n, 1n), at('PRIMARY', 2n, 2n)))).toHaveLength(2);
    expect(claimants(1001n, 'p0', of(at('PRIMARY', 1n, 1n), at('STANDBY', 2n, 1n)))).toEqual([]);
  });
  test('a restore goes to the emptiest node of the zones', () => {
    expect(chooseRestoreServer(['z2'], candidates)).toBe(3n);
    expect(chooseRestoreServer(['z9'], candidates)).toBeUndefined();
  });
});

describe('configuration', () => {
  const base = { cluster_name: 'c', cluster_id: 1, state_directory: '/x' };
  test('the least configuration listens on this machine with an embedded catalog', () => {
    expect(coordinatorConfigSchema.parse(base)).toMatchObject({
      sql: { listen: '127.0.0.1:2881' },
      grpc: { listen: '127.0.0.1:2882' },
      catalog: { kind: 'pglite' },
    });
  });
  test('without users it may not listen to the world', () => {
    const open = { ...base, sql: { listen: '0.0.0.0:2881' } };
    expect(coordinatorConfigSchema.safeParse(open).success).toBe(false);
    const closed = {
      ...base,
      sql: { listen: '0.0.0.0:2881', users: [{ name: 'root', password_file: '/p' }] },
    };
    expect(coordinatorConfigSchema.safeParse(closed).success).toBe(true);
  });
  test('addresses are read, IPv6 too', () => {
    expect(parseListen('[::1]:2881')).toEqual({ host: '::1', port: 2881 });
    expect(parseListen('db.example:1')).toEqual({ host: 'db.example', port: 1 });
  });
});

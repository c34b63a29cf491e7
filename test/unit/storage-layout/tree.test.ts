import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { checkName, parseTreePath, tree } from '../../../storage-layout/tree.ts';

const R = { clusterName: 'prod', clusterId: 7n };
const ROUND = { tenantId: 1001n, round: 3n };
const SET = { tenantId: 1001n, fullSetId: 8n, setId: 9n };
const TOP = 'prod/7/incarnation_1';

/** The documented tree: full backup 8 with increment 9. */
const PATHS: readonly (readonly [string, string])[] = [
  [tree.clusterOwner(R), 'cluster_owner'],
  [tree.clusterConfigInfo(R), 'cluster_config_info'],
  [tree.audit(R, 12), 'audit/12'],
  [tree.clusterDataBackupInfo(R), 'cluster_data_backup_info'],
  [tree.clusterClogBackupInfo(R), 'cluster_clog_backup_info'],
  [tree.tenantInfo(R), 'tenant_info'],
  [tree.tenantNameInfo(R), 'tenant_name_info'],
  [tree.clogInfo(R, { serverId: 2n, ip: '10.0.0.1', port: 2882 }), 'clog_info/2_10.0.0.1_2882'],
  [tree.tenantClogBackupInfo(R, 1001n), '1001/clog/tenant_clog_backup_info'],
  [tree.mountFile(R, ROUND), '1001/clog/3/mount_file'],
  [tree.roundBegin(R, ROUND), '1001/clog/3/round_begin'],
  [tree.roundEnd(R, ROUND), '1001/clog/3/round_end'],
  [tree.memberJoined(R, ROUND, 'g', 2), '1001/clog/3/members/g/2.joined'],
  [tree.memberBegin(R, ROUND, 'g', 2), '1001/clog/3/members/g/2.begin'],
  [tree.memberLeft(R, ROUND, 'g', 2), '1001/clog/3/members/g/2.left'],
  [tree.roundNote(R, ROUND, 3), '1001/clog/3/note_3'],
  [tree.history(R, ROUND, 'g', 2), '1001/clog/3/history/g/2.history'],
  [tree.logData(R, ROUND, 'g', 5n, 6n), '1001/clog/3/data/g/5.6'],
  [tree.logDataPart(R, ROUND, 'g', 5n, 6n, 7), '1001/clog/3/data/g/5.6.part_7'],
  [tree.logIndex(R, ROUND, 'g', 5n, 6n), '1001/clog/3/index/g/5.6'],
  [tree.tenantDataBackupInfo(R, 1001n), '1001/data/tenant_data_backup_info'],
  [tree.backupSetInfo(R, 1001n, 8n), '1001/data/backup_set_8/backup_set_info'],
  [tree.backupInfo(R, SET), '1001/data/backup_set_8/backup_9/backup_info'],
  [tree.pgList(R, SET), '1001/data/backup_set_8/backup_9/pg_list'],
  [tree.note(R, SET, 4), '1001/data/backup_set_8/backup_9/note_4'],
  [tree.deleteMark(R, SET), '1001/data/backup_set_8/backup_9/delete_mark'],
  [tree.metaFile(R, SET, 1), '1001/data/backup_set_8/backup_9/meta_file_1'],
  [tree.metaIndexFile(R, SET, 1), '1001/data/backup_set_8/backup_9/meta_index_file_1'],
  [tree.localityInfo(R, SET), '1001/data/backup_set_8/backup_9/tenant_locality_info'],
  [tree.diagnoseInfo(R, SET), '1001/data/backup_set_8/backup_9/tenant_diagnose_info'],
  [tree.macroBlock(R, SET, 'g', 33), '1001/data/backup_set_8/data/g/macro_block_9.33'],
  [tree.subTaskIndex(R, SET, 'g', 33), '1001/data/backup_set_8/data/g/macro_block_9.33.index'],
  [tree.macroBlockIndex(R, SET, 'g', 0), '1001/data/backup_set_8/data/g/macro_block_index_9'],
  [tree.macroBlockIndex(R, SET, 'g', 1), '1001/data/backup_set_8/data/g/macro_block_index_9.1'],
];

describe('the tree', () => {
  it.each(PATHS)('builds %s', (built, documented) => {
    expect(built).toBe(`${TOP}/${documented}`);
  });

  it('parses every path it builds, and each is of another kind or has other numbers', () => {
    const parsed = PATHS.map(([key]) => parseTreePath(key));
    expect(parsed.every((path) => path !== undefined && path.root.clusterId === 7n)).toBe(true);
    expect(parsed.at(-1)).toEqual({ kind: 'macroBlockIndex', root: R, ...SET, group: 'g', retry: 1 });
    expect(parsed.at(-2)).toEqual({ kind: 'macroBlockIndex', root: R, ...SET, group: 'g', retry: 0 });
    expect(parseTreePath(tree.clogInfo(R, { serverId: 2n, ip: 'fe80::1', port: 1 }))).toMatchObject({
      kind: 'clogInfo',
      serverId: 2n,
      ip: 'fe80::1',
      port: 1,
    });
  });

  it('names the directories of its files', () => {
    expect(tree.roundDirectory(R, ROUND)).toBe(`${TOP}/1001/clog/3`);
    expect(tree.clogDirectory(R, 1001n)).toBe(`${TOP}/1001/clog`);
    expect(tree.logDataDirectory(R, ROUND, 'g')).toBe(`${TOP}/1001/clog/3/data/g`);
    expect(tree.logIndexDirectory(R, ROUND, 'g')).toBe(`${TOP}/1001/clog/3/index/g`);
    expect(tree.historyDirectory(R, ROUND, 'g')).toBe(`${TOP}/1001/clog/3/history/g`);
    expect(tree.dataDirectory(R, 1001n)).toBe(`${TOP}/1001/data`);
    expect(tree.backupSetDirectory(R, 1001n, 8n)).toBe(`${TOP}/1001/data/backup_set_8`);
    expect(tree.backupDirectory(R, SET)).toBe(`${TOP}/1001/data/backup_set_8/backup_9`);
    expect(tree.macroDirectory(R, 1001n, 8n, 'g')).toBe(`${TOP}/1001/data/backup_set_8/data/g`);
  });

  it('round-trips log and macroblock names with any ids and names', () => {
    const id = fc.bigInt({ min: 0n, max: 2n ** 63n });
    const small = fc.integer({ min: 0, max: 2 ** 31 });
    const name = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/);
    fc.assert(
      fc.property(id, id, id, small, name, name, (a, b, c, n, group, clusterName) => {
        const root = { clusterName, clusterId: a };
        expect(parseTreePath(tree.logData(root, { tenantId: a, round: b }, group, c, b))).toEqual({
          kind: 'logData',
          root,
          tenantId: a,
          round: b,
          group,
          fileId: c,
          epoch: b,
        });
        const set = { tenantId: c, fullSetId: a, setId: b };
        expect(parseTreePath(tree.macroBlockIndex(root, set, group, n))).toEqual({
          kind: 'macroBlockIndex',
          root,
          ...set,
          group,
          retry: n,
        });
      }),
    );
  });

  it.each([
    '',
    'cluster_owner',
    TOP,
    `${TOP}/unknown`,
    `${TOP}/1001/clog/3/data/g/5`,
    `${TOP}/1001/clog/3/data/g/05.6`,
    `${TOP}/1001/clog/3/data/../5.6`,
    `${TOP}/1001/data/backup_set_8/data/g/macro_block_index_9.0`,
    `${TOP}/1001/data/backup_set_8/data/g/macro_block_9.1x`,
    `prod/7/incarnation_2/cluster_owner`,
  ])('does not parse %j', (key) => {
    expect(parseTreePath(key)).toBeUndefined();
  });

  it('refuses names and ids that cannot stand in a path', () => {
    for (const name of ['', '..', '.x', '-x', 'a/b', 'a b', 'ä', 'x'.repeat(64), 'a\n']) {
      expect(() => checkName('cluster', name)).toThrow(/cluster name/);
      expect(() => tree.logData(R, ROUND, name, 1n, 1n)).toThrow(/partition group name/);
      expect(() => tree.root({ clusterName: name, clusterId: 1n })).toThrow(/cluster name/);
    }
    for (const name of ['a', '_x', 'shard-1.eu', 'x'.repeat(63)]) checkName('cluster', name);
    expect(() => tree.tenantDirectory(R, -1n)).toThrow(/tenant id/);
    expect(() => tree.note(R, SET, 1.5)).toThrow(/ordinal/);
    expect(() => tree.clogInfo(R, { serverId: 1n, ip: '../x', port: 1 })).toThrow(/address/);
  });
});

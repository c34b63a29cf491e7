import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { chooseBase } from '../../../coordinator/destination/increment-base.ts';
import {
  type BackupInfo,
  BackupInfoSchema,
  EncryptionMode,
} from '../../../proto/gen/holdfast/v1/records_pb.ts';

function set(
  backupSetId: bigint,
  fullSetId: bigint,
  round: bigint,
  ...groups: readonly string[]
): BackupInfo {
  const partitionGroups = groups.map((partitionGroup) => ({ partitionGroup }));
  return create(BackupInfoSchema, { backupSetId, fullSetId, round, partitionGroups });
}

const WANTED = { round: 2n, encrypted: false };

describe('the set that an increment goes on from', () => {
  test('is the newest of the round', () => {
    const sets = [set(7n, 7n, 1n, 'a'), set(9n, 8n, 2n, 'a'), set(8n, 8n, 2n, 'a')];
    expect(chooseBase(sets, { ...WANTED, groups: ['a'] })).toEqual({
      kind: 'increment',
      setId: 9n,
      fullSetId: 8n,
    });
  });

  test('may hold a partition group that has left', () => {
    expect(chooseBase([set(8n, 8n, 2n, 'a', 'b')], { ...WANTED, groups: ['a'] })).toMatchObject({
      kind: 'increment',
    });
  });

  test('is encrypted when the increment is, and only then', () => {
    const encrypted = { ...set(8n, 8n, 2n, 'a'), encryptionMode: EncryptionMode.DUAL };
    const wanted = { ...WANTED, groups: ['a'] };
    expect(chooseBase([encrypted], { ...wanted, encrypted: true })).toMatchObject({ kind: 'increment' });
    expect(chooseBase([encrypted], wanted)).toMatchObject({
      reason: 'backup set 8 is encrypted, and this one is not',
    });
    expect(chooseBase([set(8n, 8n, 2n, 'a')], { ...wanted, encrypted: true })).toMatchObject({
      reason: 'backup set 8 is not encrypted, and this one is',
    });
  });

  test.each([
    ['there is none', [], /no backup set to go on from/],
    [
      'all are of earlier rounds',
      [set(7n, 7n, 1n, 'a'), set(6n, 6n, 1n, 'a')],
      /round 2 has no backup set yet; the newest, 7, is of round 1/,
    ],
    [
      'a partition group has joined since',
      [set(8n, 8n, 2n, 'a')],
      /partition group b has joined since backup set 8/,
    ],
  ])('is none when %s', (_, sets, reason) => {
    const base = chooseBase(sets, { ...WANTED, groups: ['a', 'b'] });
    expect(base.kind === 'full' ? base.reason : base).toMatch(reason);
  });
});

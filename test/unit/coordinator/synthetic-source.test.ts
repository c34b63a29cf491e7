import { create } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { overdueReason, pagesReadAt } from '../../../coordinator/destination/full-age.ts';
import { chooseBase } from '../../../coordinator/destination/increment-base.ts';
import { chooseSource } from '../../../coordinator/destination/synthetic-source.ts';
import { type BackupInfo, BackupInfoSchema, BackupType } from '../../../proto/gen/holdfast/v1/records_pb.ts';

const DAY_US = 86_400_000_000n;

type More = Partial<Pick<BackupInfo, 'startUs' | 'pagesReadUs'>>;

function set(id: bigint, fullSetId: bigint, type: BackupType, more: More = {}): BackupInfo {
  return create(BackupInfoSchema, {
    backupSetId: id,
    fullSetId,
    type,
    round: 1n,
    startUs: id * DAY_US,
    partitionGroups: [{ partitionGroup: 'a' }],
    ...more,
  });
}
const FULL = set(1n, 1n, BackupType.FULL);
const INCREMENT = set(2n, 1n, BackupType.INCREMENTAL);
const SYNTHETIC = set(3n, 3n, BackupType.SYNTHETIC, { pagesReadUs: DAY_US });
const ON_SYNTHETIC = set(4n, 3n, BackupType.INCREMENTAL);

describe('a synthetic full', () => {
  test('is made of the newest set', () => {
    expect(chooseSource('t', [INCREMENT, FULL])).toEqual({ set: INCREMENT, pagesReadUs: DAY_US });
    expect(chooseSource('t', [FULL, INCREMENT, SYNTHETIC, ON_SYNTHETIC]).set).toBe(ON_SYNTHETIC);
  });

  test('is refused by name without a set, or without its full set', () => {
    expect(() => chooseSource('t', [])).toThrow('tenant "t" has no complete backup set to make one of');
    expect(() => chooseSource('t', [INCREMENT])).toThrow('full set 1 of backup set 2 is gone');
  });

  test('is refused while a page of the set has failed its check, and only while it has', () => {
    const failing = set(2n, 1n, BackupType.INCREMENTAL);
    failing.partitionGroups[0]?.pageFailures.push({
      $typeName: 'holdfast.v1.PageFailure',
      path: 'base/5/1259',
      block: 7,
      reason: 'wrong checksum',
    });
    expect(() => chooseSource('t', [FULL, failing])).toThrow(
      expect.objectContaining({ code: 'SYNTHETIC_BACKUP_REFUSED' }) as Error,
    );
    const mended = set(3n, 1n, BackupType.INCREMENTAL);
    expect(chooseSource('t', [FULL, failing, mended]).set).toBe(mended);
  });
});

describe('the age of the last backup that read every page', () => {
  const sets = [FULL, INCREMENT, SYNTHETIC, ON_SYNTHETIC];

  test('counts from the start of the full set, and a synthetic set carries it along', () => {
    expect(sets.map((each) => pagesReadAt(sets, each))).toEqual([DAY_US, DAY_US, DAY_US, DAY_US]);
    expect(pagesReadAt([INCREMENT], INCREMENT)).toBeUndefined();
  });

  test('makes a real full backup due when it is greater than full_backup_max_age', () => {
    expect(overdueReason(DAY_US, { nowUs: 8n * DAY_US, maxAge: '7d' })).toBeUndefined();
    expect(overdueReason(DAY_US, { nowUs: 8n * DAY_US + 1n, maxAge: '7d' })).toBe(
      'the last backup that read every page began 1970-01-02 00:00:00.000000Z, longer than full_backup_max_age (7d) ago',
    );
    expect(overdueReason(DAY_US, { nowUs: 8000n * DAY_US, maxAge: '0' })).toBeUndefined();
  });

  test('makes an increment a full backup', () => {
    const wanted = { round: 1n, groups: ['a'], encrypted: false };
    const age = { nowUs: 9n * DAY_US, maxAge: '7d' };
    expect(chooseBase(sets, wanted, age)).toMatchObject({ kind: 'full' });
    expect(chooseBase(sets, wanted, { ...age, maxAge: '30d' })).toEqual({
      kind: 'increment',
      setId: 4n,
      fullSetId: 3n,
    });
  });
});

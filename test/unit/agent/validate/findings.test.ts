/** What is said of damage: gathered by object, bounded, with the relations and the sets that are hit. */
import { describe, expect, test } from 'vitest';
import {
  affectedFile,
  cutOff,
  type Finding,
  Findings,
  findingOf,
  formatFinding,
  MAX_FINDINGS,
  missing,
} from '../../../../agent/validate/findings.ts';
import { isAffected, type SetWindow, setsNeedingLog } from '../../../../agent/validate/needed-by.ts';
import { HoldfastError } from '../../../../foundation/errors.ts';
import { toLsn, toTimeline } from '../../../../foundation/lsn.ts';

const NOBODY = () => ({ setIds: [], shortenedSetIds: [] });

describe('findings', () => {
  test('a lost file is one finding with all the files it held, however many blocks', () => {
    const findings = new Findings();
    for (let n = 0; n < 50; n += 1) findings.addWhole(missing('m.1'), { path: `base/5/${16384 + (n % 30)}` });
    const [found] = findings.list(new Map([[5, 'shop']]), NOBODY);
    expect(findings.count).toBe(1);
    expect(found).toMatchObject({ code: 'BACKUP_FILE_NOT_EXIST', key: 'm.1', fileCount: 30 });
    expect(found?.files).toHaveLength(20);
    expect(found?.files[0]).toEqual({
      path: 'base/5/16384',
      databaseOid: 5,
      databaseName: 'shop',
      relFileNumber: 16384,
      blockCount: 2,
    });
  });

  test('all are counted, the first ones are kept', () => {
    const findings = new Findings();
    for (let n = 0; n < MAX_FINDINGS + 7; n += 1)
      findings.add({ code: 'DATA_CORRUPT', key: 'm', offset: n, message: `bad ${n}` });
    expect(findings.count).toBe(MAX_FINDINGS + 7);
    expect(findings.isFull).toBe(true);
    expect(findings.list(new Map(), NOBODY)).toHaveLength(MAX_FINDINGS);
  });

  test.each([
    ['base/16401/1259.1', 16401, 1259],
    ['global/1260', 0, 1260],
    ['pg_tblspc/17000/PG_17_202406281/16401/24600_vm', 16401, 24600],
    ['pg_xact/0000', 0, 0],
    ['base/16401/pg_filenode.map', 16401, 0],
  ])('the path %s is of database %d and relation file %d', (path, databaseOid, relFileNumber) => {
    expect(affectedFile(path, 1, new Map())).toMatchObject({ databaseOid, relFileNumber });
  });

  test('damage becomes a finding at its offset; what keeps from reading does not', () => {
    const corrupt = new HoldfastError('DATA_CORRUPT', 'k at offset 77: wrong checksum');
    expect(findingOf(corrupt, 'k')).toMatchObject({ code: 'DATA_CORRUPT', offset: 77 });
    expect(findingOf(new HoldfastError('FILE_NOT_FOUND', 'no such file'), 'k')).toMatchObject({
      code: 'BACKUP_FILE_NOT_EXIST',
      key: 'k',
    });
    for (const code of ['DESTINATION_IO', 'CANCELLED', 'INTERNAL'] as const)
      expect(findingOf(new HoldfastError(code, 'x'), 'k')).toBeUndefined();
    expect(findingOf(new Error('x'), 'k')).toBeUndefined();
  });

  test('the text names object, relation and sets', () => {
    const finding: Finding = {
      ...cutOff('m.1', 4096),
      files: [affectedFile('base/5/16384', 3, new Map([[5, 'shop']]))],
      fileCount: 4,
      setIds: [8n, 9n],
      shortenedSetIds: [7n],
    };
    expect(formatFinding(finding)).toBe(
      'DATA_CORRUPT: m.1 at offset 4096: the file ends here, it is cut off; it holds base/5/16384 (database "shop", ' +
        'relation file 16384, 3 macroblocks) and 3 more files; needed by backup sets 8, 9; backup set 7 can be restored ' +
        'up to before it only',
    );
  });
});

describe('the sets that need something', () => {
  const window = (setId: bigint, begin: bigint, end: bigint, timeline = 1): SetWindow => ({
    setId,
    timeline: toTimeline(timeline),
    begin: toLsn(begin),
    end: toLsn(end),
  });
  const range = (begin: bigint, end: bigint, timeline = 1) => ({
    timeline: toTimeline(timeline),
    begin: toLsn(begin),
    end: toLsn(end),
  });

  test('log inside a set is needed by it; log behind it shortens what it restores', () => {
    const windows = [window(1n, 0n, 100n), window(2n, 200n, 300n), window(3n, 400n, 500n)];
    expect(setsNeedingLog(range(250n, 260n), windows)).toEqual({ setIds: [2n], shortenedSetIds: [1n] });
    expect(setsNeedingLog(range(300n, 310n), windows)).toEqual({ setIds: [], shortenedSetIds: [1n, 2n] });
    expect(setsNeedingLog(range(50n, 450n), windows)).toEqual({ setIds: [1n, 2n, 3n], shortenedSetIds: [] });
    expect(setsNeedingLog(range(600n, 700n, 2), windows).shortenedSetIds).toEqual([1n, 2n, 3n]);
    expect(setsNeedingLog(range(50n, 60n, 2), windows).setIds).toEqual([]);
  });

  test('a place is hit by damage inside it, by a file that ends before its end, and by a lost file', () => {
    const place = { offset: 100, storedBytes: 50 };
    const damaged = (offset: number | undefined, isCut = false) =>
      isAffected(place, { code: 'DATA_CORRUPT', key: 'm', offset, message: '', ...(isCut ? { isCut } : {}) });
    expect([99, 100, 149, 150].map((offset) => damaged(offset))).toEqual([false, true, true, false]);
    expect([0, 149, 150].map((offset) => damaged(offset, true))).toEqual([true, true, false]);
    expect(damaged(undefined)).toBe(true);
  });
});

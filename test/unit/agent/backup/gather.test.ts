import { describe, expect, test } from 'vitest';
import { judgeSuspects, keptPaths } from '../../../../agent/backup/gather.ts';
import type { SuspectFound } from '../../../../agent/backup/worker-protocol.ts';
import { toLsn } from '../../../../foundation/lsn.ts';

test('a tablespace that was made after the start is left out; one in place, and those of the start, stay', () => {
  const made = (oid: number, inPlace = false) => ({ oid, name: '', location: `/t/${oid}`, inPlace });
  const listing = { tablespaces: [made(1), made(2), made(3, true)] };
  const isKept = keptPaths(listing, [{ oid: 1 }]);
  const paths = [
    'pg_tblspc',
    'pg_tblspc/1/PG_17_1/5/1',
    'pg_tblspc/2',
    'pg_tblspc/2/PG_17_1/5/1',
    'pg_tblspc/3/x',
  ];
  expect(paths.filter((path) => isKept({ path }))).toEqual([
    'pg_tblspc',
    'pg_tblspc/1/PG_17_1/5/1',
    'pg_tblspc/3/x',
  ]);
});

describe('suspect pages', () => {
  test.each([
    [99n, true],
    [100n, false],
    [150n, false],
    [200n, false],
    [201n, true],
    [0n, true],
  ])('with position %s, in a backup from 100 to 200, is damaged: %s', (pageLsn, damaged) => {
    expect(judgeSuspects([suspect(pageLsn)], toLsn(100n), toLsn(200n))).toHaveLength(damaged ? 1 : 0);
  });
});

function suspect(pageLsn: bigint): SuspectFound {
  return { fileNumber: 1, path: 'base/5/1', macroblock: 0, pageInFile: 0, pageLsn };
}

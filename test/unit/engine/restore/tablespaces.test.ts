import { describe, expect, test } from 'vitest';
import {
  parseTablespaceMap,
  parseTablespaceOption,
  planTablespaces,
} from '../../../../engine/postgres/restore/tablespaces.ts';

describe('a tablespace_map', () => {
  test('gives oid and location of each line, escapes undone', () => {
    const map = Buffer.from('16384 /fast disk/a\n16385 /b\\\\c\\\nd\n');
    expect(parseTablespaceMap(map)).toEqual([
      { oid: 16384, location: '/fast disk/a' },
      { oid: 16385, location: '/b\\c\nd' },
    ]);
    expect(parseTablespaceMap(Buffer.alloc(0))).toEqual([]);
  });

  test('with a line that is none is refused', () => {
    expect(() => parseTablespaceMap(Buffer.from('x /a\n'))).toThrow(/line that is none/);
    expect(() => parseTablespaceMap(Buffer.from('0 /a\n'))).toThrow(/line that is none/);
  });
});

describe('the plan for tablespaces', () => {
  const source = [
    { oid: 1, location: '/a' },
    { oid: 2, location: '/b' },
    { oid: 3, location: 'pg_tblspc/3' },
  ];

  test('never uses the original location unless it was named', () => {
    const plan = planTablespaces(source, new Map([['/b/', '/b']]), '/new');
    expect(plan).toEqual([
      { oid: 1, location: '/a', directory: '/new.tablespaces/1' },
      { oid: 2, location: '/b', directory: '/b' },
    ]);
  });

  test.each([
    [new Map([['/c', '/d']]), /no tablespace at "\/c"/],
    [new Map([['/a', 'd']]), /not absolute/],
    [new Map([['/a', '/new/inside']]), /overlaps/],
    [
      new Map([
        ['/a', '/d'],
        ['/b', '/d/e'],
      ]),
      /overlaps/,
    ],
  ])('refuses %o', (map, message) => {
    expect(() => planTablespaces(source, map, '/new')).toThrow(message);
  });
});

test('a mapping of the command line takes a colon or an equals sign, escaped ones apart', () => {
  expect(parseTablespaceOption('/a:/b')).toEqual(['/a', '/b']);
  expect(parseTablespaceOption('/a\\:x=/b')).toEqual(['/a:x', '/b']);
  for (const bad of ['', '/a', 'a:/b', '/a:/b:/c']) expect(() => parseTablespaceOption(bad)).toThrow();
});

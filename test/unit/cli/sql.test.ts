import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { formatCaret } from '../../../cli/sql/caret.ts';
import { formatTable } from '../../../cli/sql/tables.ts';
import { ColumnSchema, ValueSchema } from '../../../proto/gen/holdfast/v1/admin_pb.ts';

const columns = [
  create(ColumnSchema, { name: 'id', typeOid: 20 }),
  create(ColumnSchema, { name: 'name', typeOid: 25 }),
  create(ColumnSchema, { name: 'time', typeOid: 1184 }),
];
const row = (id: bigint, name: string | undefined, timeUs: bigint) => [
  create(ValueSchema, { kind: { case: 'integer', value: id } }),
  create(ValueSchema, {
    kind: name === undefined ? { case: 'nullValue', value: true } : { case: 'text', value: name },
  }),
  create(ValueSchema, { kind: { case: 'timestampUs', value: timeUs } }),
];
const table = { columns, rows: [row(9_007_199_254_740_993n, 'a,"b"', 1_500_000n), row(1n, undefined, 0n)] };

test('aligned output is as psql writes it', () => {
  expect(
    formatTable(table, 'aligned')
      .split('\n')
      .map((line) => line.trimEnd()),
  ).toEqual([
    '        id        | name  |           time',
    '------------------+-------+--------------------------',
    ' 9007199254740993 | a,"b" | 1970-01-01 00:00:01.5+00',
    '                1 |       | 1970-01-01 00:00:00+00',
    '(2 rows)',
    '',
    '',
  ]);
});

test('a cell of two lines takes two lines', () => {
  const two = {
    columns: columns.slice(1, 2),
    rows: [[create(ValueSchema, { kind: { case: 'text', value: 'ab\nc' } })]],
  };
  expect(formatTable(two, 'aligned')).toBe(' name\n------\n ab  +\n c\n(1 row)\n\n');
});

test('JSON keeps every digit', () => {
  expect(formatTable(table, 'json')).toContain(
    '{"id":9007199254740993,"name":"a,\\"b\\"","time":"1970-01-01T00:00:01.5Z"}',
  );
  expect(formatTable({ columns, rows: [] }, 'json')).toBe('[]\n');
});

test('CSV tells NULL from an empty string', () => {
  expect(formatTable(table, 'csv')).toBe(
    'id,name,time\n9007199254740993,"a,""b""",1970-01-01 00:00:01.5+00\n1,,1970-01-01 00:00:00+00\n',
  );
});

test('the caret stands below the character', () => {
  expect(formatCaret('SELECT 1;\n\tSELECT é nope', 21)).toBe('LINE 2:  SELECT é nope\n                  ^');
});

import { expect, test } from 'vitest';
import {
  firstBlockOf,
  parseRelationFileName,
  parseRelationPath,
} from '../../../engine/postgres/relation-files.ts';

test.each([
  ['16384', 16384, 'main', 0, false],
  ['16384.1', 16384, 'main', 1, false],
  ['16384_fsm', 16384, 'fsm', 0, false],
  ['16384_vm.12', 16384, 'vm', 12, false],
  ['16384_init', 16384, 'init', 0, false],
  ['t3_16384', 16384, 'main', 0, true],
  ['t12_16384_fsm.2', 16384, 'fsm', 2, true],
] as const)('%s is a relation file', (name, relFile, fork, segmentNo, temporary) => {
  expect(parseRelationFileName(name)).toEqual({ relFile, fork, segmentNo, temporary });
});

test.each([
  'PG_VERSION',
  'pg_filenode.map',
  '0123',
  '16384.0',
  '16384_',
  '16384_fsm_vm',
  't_16384',
  '16384.1_fsm',
  '',
])('%s is no relation file', (name) => {
  expect(parseRelationFileName(name)).toBeUndefined();
});

test.each([
  ['base/5/16384', true],
  ['global/1262', true],
  ['pg_tblspc/16390/PG_17_202406281/5/16384', true],
  ['pg_xact/0000', false],
  ['pg_multixact/offsets/0000', false],
  ['base/16384', false],
  ['pg_tblspc/16390/PG_17_202406281/16384', false],
  ['16384', false],
])('%s holds a relation: %s', (path, wanted) => {
  expect(parseRelationPath(path) !== undefined).toBe(wanted);
});

test('blocks are counted over all segments', () => {
  expect(firstBlockOf('base/5/16384')).toBe(0);
  expect(firstBlockOf('base/5/16384.3')).toBe(3 * 131_072);
  expect(firstBlockOf('base/5/16384_fsm.1')).toBe(131_072);
});

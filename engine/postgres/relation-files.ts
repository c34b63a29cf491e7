/**
 * The names of relation files, and what they say. Relations stand in `base/<database>`, `global` and
 * `pg_tblspc/<oid>/PG_<major>_<catalog version>/<database>`:
 *
 *   <relfile>[_fsm|_vm|_init][.<segment>]        temporary: t<backend>_<relfile>[_fsm|_vm|_init][.<segment>]
 */
import type { ForkId } from '../../storage-layout/clog/change-map.ts';

export type RelationFork = 'main' | 'fsm' | 'vm' | 'init';

export type RelationFileName = {
  readonly relFile: number;
  readonly fork: RelationFork;
  /** 0 for the first segment, whose name has no suffix. */
  readonly segmentNo: number;
  readonly temporary: boolean;
};

/** Pages in a whole relation segment of a server built with the defaults (1 GB). */
export const SEGMENT_PAGES = 131_072;

const RELATION_NAME = /^(t\d+_)?([1-9]\d*)(?:_(fsm|vm|init))?(?:\.([1-9]\d*))?$/;
const RELATION_DIRECTORY = /^(?:base\/\d+|global|pg_tblspc\/\d+\/PG_\d+_\d+\/\d+)$/;

/** Undefined when `name` is no relation file's name. */
export function parseRelationFileName(name: string): RelationFileName | undefined {
  const match = RELATION_NAME.exec(name);
  if (match === null) return undefined;
  return {
    relFile: Number(match[2]),
    fork: (match[3] ?? 'main') as RelationFork, // the pattern admits nothing else
    segmentNo: match[4] === undefined ? 0 : Number(match[4]),
    temporary: match[1] !== undefined,
  };
}

/** True for a directory (relative to the data directory) whose numbered files are relations. */
export function isRelationDirectory(path: string): boolean {
  return RELATION_DIRECTORY.test(path);
}

/** The relation file that stands at `path`; undefined for any other file. */
export function parseRelationPath(path: string): RelationFileName | undefined {
  const slash = path.lastIndexOf('/');
  if (slash < 0 || !isRelationDirectory(path.slice(0, slash))) return undefined;
  return parseRelationFileName(path.slice(slash + 1));
}

const FORK_NUMBERS: Readonly<Record<RelationFork, number>> = { main: 0, fsm: 1, vm: 2, init: 3 };
const GLOBAL_TABLESPACE = 1664;
const DEFAULT_TABLESPACE = 1663;

/** The fork, as the log names it, of the relation file at `path`, and its segment; undefined for any other file. */
export function parseForkPath(
  path: string,
): { readonly fork: ForkId; readonly segmentNo: number } | undefined {
  const file = parseRelationPath(path);
  if (file === undefined) return undefined;
  const [top, first, , third] = path.split('/');
  const place =
    top === 'global'
      ? { tablespace: GLOBAL_TABLESPACE, database: 0 }
      : top === 'base'
        ? { tablespace: DEFAULT_TABLESPACE, database: Number(first) }
        : { tablespace: Number(first), database: Number(third) };
  const fork = { ...place, relation: file.relFile, fork: FORK_NUMBERS[file.fork] };
  return { fork, segmentNo: file.segmentNo };
}

/** The block number, counted over all segments of its fork, of the first page of the relation file at `path`. */
export function firstBlockOf(path: string): number {
  return (parseRelationPath(path)?.segmentNo ?? 0) * SEGMENT_PAGES;
}

/**
 * Where the tablespaces of a restored copy go. The server would recreate its links from `tablespace_map`, and a copy
 * restored beside its source would then write into the live tablespace: so the map is parsed and never laid down, and
 * the links are made by us.
 *
 * 1. Every link points into a directory that the restore owns: the mapped one, or a new one beside the data directory.
 * 2. The original location is used only when it was named (`a=a`) and is empty.
 * 3. An in-place tablespace (a real directory under pg_tblspc) stays where it is.
 */
import { isAbsolute, join, normalize } from 'node:path';
import { HoldfastError } from '../../../foundation/errors.ts';

export type SourceTablespace = { readonly oid: number; readonly location: string };

export type TablespaceTarget = {
  readonly oid: number;
  /** Where it was at the source. */
  readonly location: string;
  /** The directory that `pg_tblspc/<oid>` will point to: absolute, to be made, or empty. */
  readonly directory: string;
};

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const BACKSLASH = 0x5c;

/**
 * Reads a tablespace_map: lines `<oid> <path>`, where a backslash makes the next byte part of the path (xlogrecovery.c,
 * read_tablespace_map). Throws DATA_CORRUPT when a line is no such line.
 */
export function parseTablespaceMap(map: Uint8Array): readonly SourceTablespace[] {
  const lines: string[] = [];
  let line: number[] = [];
  let escaped = false;
  for (const byte of map) {
    if (!escaped && byte === BACKSLASH) {
      escaped = true;
      continue;
    }
    if (!escaped && (byte === NEWLINE || byte === CARRIAGE_RETURN)) {
      if (line.length > 0) lines.push(Buffer.from(line).toString('utf8'));
      line = [];
      continue;
    }
    escaped = false;
    line.push(byte);
  }
  if (line.length > 0) lines.push(Buffer.from(line).toString('utf8'));
  return lines.map(parseLine);
}

/**
 * The directory of each tablespace. `map` is original location → wanted directory; both absolute. Throws
 * INVALID_ARGUMENT for a mapped location that the backup does not have, a relative directory, and two tablespaces in
 * one directory. Pure: whether the directories are empty is for the caller to see.
 */
export function planTablespaces(
  tablespaces: readonly SourceTablespace[],
  map: ReadonlyMap<string, string>,
  dataDirectory: string,
): readonly TablespaceTarget[] {
  const linked = tablespaces.filter((tablespace) => isAbsolute(tablespace.location));
  const known = new Set(linked.map((tablespace) => normalizeDirectory(tablespace.location)));
  const wanted = new Map<string, string>();
  for (const [from, to] of map) {
    const location = normalizeDirectory(from);
    if (!known.has(location)) {
      throw new HoldfastError('INVALID_ARGUMENT', `the backup has no tablespace at "${from}"`, {
        hint: known.size === 0 ? 'It has none at all.' : `It has them at ${[...known].join(', ')}.`,
      });
    }
    if (!isAbsolute(to)) {
      throw new HoldfastError(
        'INVALID_ARGUMENT',
        `the directory for tablespace "${from}" is not absolute: "${to}"`,
      );
    }
    wanted.set(location, normalizeDirectory(to));
  }
  const targets = linked.map(({ oid, location }) => ({
    oid,
    location,
    directory: wanted.get(normalizeDirectory(location)) ?? join(`${dataDirectory}.tablespaces`, String(oid)),
  }));
  refuseOverlap(targets, dataDirectory);
  return targets;
}

/** Reads `a:b` or `a=b` options of the command line; a backslash before a colon or equals sign makes it part of the path. */
export function parseTablespaceOption(text: string): readonly [from: string, to: string] {
  const parts = text.split(/(?<!\\)[:=]/).map((part) => part.replaceAll(/\\([:=\\])/g, '$1'));
  const [from, to] = parts;
  if (parts.length !== 2 || from === undefined || to === undefined || !isAbsolute(from) || !isAbsolute(to)) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a tablespace mapping: "${text}"`, {
      hint: 'Write /original/location:/new/directory, both absolute.',
    });
  }
  return [from, to];
}

function parseLine(line: string): SourceTablespace {
  const match = /^([0-9]{1,10}) (.+)$/s.exec(line);
  const oid = Number(match?.[1]);
  if (match?.[2] === undefined || oid < 1 || oid > 0xffff_ffff) {
    throw new HoldfastError(
      'DATA_CORRUPT',
      `tablespace_map has a line that is none: ${JSON.stringify(line)}`,
    );
  }
  return { oid, location: match[2] };
}

function refuseOverlap(targets: readonly TablespaceTarget[], dataDirectory: string): void {
  const taken = [normalizeDirectory(dataDirectory)];
  for (const { directory, location } of targets) {
    const other = taken.find((one) => isWithin(one, directory) || isWithin(directory, one));
    if (other !== undefined) {
      throw new HoldfastError(
        'INVALID_ARGUMENT',
        `the directory for tablespace "${location}", "${directory}", overlaps with "${other}"`,
      );
    }
    taken.push(directory);
  }
}

function isWithin(outer: string, inner: string): boolean {
  return inner === outer || inner.startsWith(outer.endsWith('/') ? outer : `${outer}/`);
}

function normalizeDirectory(path: string): string {
  const normal = normalize(path);
  return normal.length > 1 && normal.endsWith('/') ? normal.slice(0, -1) : normal;
}

/**
 * What a validation found wrong. One finding is one object at the destination, or one place in it: a file that is gone or
 * cut off is one finding however many blocks it held. All are counted, the first MAX_FINDINGS are kept.
 */
import { dirname } from 'node:path/posix';
import { isRelationDirectory, parseRelationPath } from '../../engine/postgres/relation-files.ts';
import { type ErrorCode, type HoldfastError, isError } from '../../foundation/errors.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';

export const MAX_FINDINGS = 200;
const MAX_FILES_PER_FINDING = 20;

/** A data file of the database of which something is affected. */
export type AffectedFile = {
  readonly path: string;
  /** 0: of the whole cluster, or no file of a database. */
  readonly databaseOid: number;
  /** Empty: not known. */
  readonly databaseName: string;
  /** 0: no relation. */
  readonly relFileNumber: number;
  readonly blockCount: number;
};

export type Finding = {
  readonly code: ErrorCode;
  /** The file at the destination. */
  readonly key: string;
  /** Undefined: all of it. */
  readonly offset: number | undefined;
  /** All behind the offset is lost too. */
  readonly isCut?: boolean;
  readonly message: string;
  /** The first of them. */
  readonly files: readonly AffectedFile[];
  readonly fileCount: number;
  /** Sets that cannot be restored without it. */
  readonly setIds: readonly bigint[];
  /** Sets that can be restored up to before it only. */
  readonly shortenedSetIds: readonly bigint[];
};

export type NewFinding = Pick<Finding, 'code' | 'key' | 'offset' | 'isCut' | 'message'> & {
  /** The log that cannot be read because of it. */
  readonly range?: LogRange | undefined;
};

/** A block of a data file that a finding is about. */
export type AffectedBlock = { readonly path: string };

type Kept = NewFinding & { readonly blocks: Map<string, number> };

export class Findings {
  readonly #kept: Kept[] = [];
  readonly #wholes = new Map<string, Kept>();
  #count = 0;

  /** How many there are, those that are not kept included. */
  get count(): number {
    return this.#count;
  }

  get isFull(): boolean {
    return this.#kept.length >= MAX_FINDINGS;
  }

  /** One place in an object, with the block that stands there. */
  add(finding: NewFinding, block?: AffectedBlock): void {
    const kept = this.#keep(finding);
    if (kept !== undefined && block !== undefined) countBlock(kept, block);
  }

  /** All of an object, or all behind a place in it: said once for each object, the blocks gathered. */
  addWhole(finding: NewFinding, block?: AffectedBlock): void {
    const known = this.#wholes.get(finding.key);
    const kept = known ?? this.#keep(finding);
    if (kept === undefined) return;
    this.#wholes.set(finding.key, kept);
    if (block !== undefined) countBlock(kept, block);
  }

  /** True when all of the object, or its end, is known to be lost. */
  hasWhole(key: string): boolean {
    return this.#wholes.has(key);
  }

  /** The findings that are kept, the databases named where their names are known. `setsOf`: the sets that need it. */
  list(
    databases: ReadonlyMap<number, string>,
    setsOf: (finding: NewFinding) => Pick<Finding, 'setIds' | 'shortenedSetIds'>,
  ): readonly Finding[] {
    return this.#kept.map((kept) => {
      const { blocks, code, key, offset, isCut, message } = kept;
      return {
        code,
        key,
        offset,
        ...(isCut === undefined ? {} : { isCut }),
        message,
        files: [...blocks]
          .slice(0, MAX_FILES_PER_FINDING)
          .map(([path, blockCount]) => affectedFile(path, blockCount, databases)),
        fileCount: blocks.size,
        ...setsOf(kept),
      };
    });
  }

  #keep(finding: NewFinding): Kept | undefined {
    this.#count += 1;
    if (this.isFull) return undefined;
    const kept = { ...finding, blocks: new Map<string, number>() };
    this.#kept.push(kept);
    return kept;
  }
}

function countBlock(kept: Kept, { path }: AffectedBlock): void {
  kept.blocks.set(path, (kept.blocks.get(path) ?? 0) + 1);
}

/** What the path of a data file says about the relation in it. */
export function affectedFile(
  path: string,
  blockCount: number,
  databases: ReadonlyMap<number, string>,
): AffectedFile {
  const databaseOid = databaseOf(path);
  return {
    path,
    databaseOid,
    databaseName: databases.get(databaseOid) ?? '',
    relFileNumber: parseRelationPath(path)?.relFile ?? 0,
    blockCount,
  };
}

/** `base/<oid>/…`, `pg_tblspc/<oid>/PG_…/<oid>/…`; 0 for anything else. */
function databaseOf(path: string): number {
  const directory = dirname(path);
  if (!isRelationDirectory(directory) || directory === 'global') return 0;
  return Number(directory.slice(directory.lastIndexOf('/') + 1));
}

/** Damage at the destination, as a finding; undefined for any other error, which ends the work. */
export function findingOf(error: unknown, key: string): NewFinding | undefined {
  if (isError(error, 'FILE_NOT_FOUND')) return missing(key);
  if (!isDamage(error)) return undefined;
  const at = /at offset (\d+)/.exec(error.message)?.[1];
  return {
    code: error.code,
    key,
    offset: at === undefined ? undefined : Number(at),
    message: error.message,
  };
}

/** Does the work; damage that it meets becomes a finding, and undefined is returned. */
export async function tolerate<T>(
  findings: Findings,
  key: string,
  work: () => Promise<T>,
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    const finding = findingOf(error, key);
    if (finding === undefined) throw error;
    findings.add(finding);
    return undefined;
  }
}

export function missing(key: string): NewFinding {
  return { code: 'BACKUP_FILE_NOT_EXIST', key, offset: undefined, message: `${key}: the file is missing` };
}

/** The file ends at `sizeBytes`, before something that should be in it. */
export function cutOff(key: string, sizeBytes: number): NewFinding {
  const message = `${key} at offset ${sizeBytes}: the file ends here, it is cut off`;
  return { code: 'DATA_CORRUPT', key, offset: sizeBytes, message, isCut: true };
}

function isDamage(error: unknown): error is HoldfastError {
  return isError(
    error,
    'DATA_CORRUPT',
    'FORMAT_UNKNOWN',
    'LOG_CONFLICT',
    'LOG_INDEX_INVALID',
    'LOG_GAP',
    'WAL_UNREADABLE',
    'SYSTEM_IDENTIFIER_MISMATCH',
  );
}

/** `DATA_CORRUPT: <what>; it holds base/5/16384 (database "app", relation file 16384); backup set 1 needs it` */
export function formatFinding(finding: Finding): string {
  return [
    `${finding.code}: ${finding.message}`,
    ...(finding.files.length === 0 ? [] : [`it holds ${formatFiles(finding)}`]),
    ...(finding.setIds.length === 0 ? [] : [`needed by ${formatSets(finding.setIds)}`]),
    ...(finding.shortenedSetIds.length === 0
      ? []
      : [`${formatSets(finding.shortenedSetIds)} can be restored up to before it only`]),
  ].join('; ');
}

function formatFiles({ files, fileCount }: Finding): string {
  const named = files.map((file) => {
    const facts = [
      ...(file.databaseOid === 0 ? [] : [`database ${databaseLabel(file)}`]),
      ...(file.relFileNumber === 0 ? [] : [`relation file ${file.relFileNumber}`]),
      ...(file.blockCount > 1 ? [`${file.blockCount} macroblocks`] : []),
    ];
    return facts.length === 0 ? file.path : `${file.path} (${facts.join(', ')})`;
  });
  const more = fileCount - files.length;
  return more > 0 ? `${named.join(', ')} and ${more} more files` : named.join(', ');
}

function databaseLabel({ databaseOid, databaseName }: AffectedFile): string {
  return databaseName === '' ? String(databaseOid) : `"${databaseName}"`;
}

function formatSets(ids: readonly bigint[]): string {
  return `backup set${ids.length === 1 ? '' : 's'} ${ids.join(', ')}`;
}

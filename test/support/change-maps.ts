/** Change maps of an archive that a test rewrites, as if the log said something else. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Lsn } from '../../foundation/lsn.ts';
import {
  type ChangeMapParts,
  type ChangeWarnings,
  type ForkChanges,
  type LogChange,
  readChangeMap,
} from '../../storage-layout/clog/change-map.ts';
import { readLogIndex, writeLogIndex } from '../../storage-layout/clog/index.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import { ARCHIVE_GROUP, ARCHIVE_ROOT, ARCHIVE_ROUND, openArchive } from './archiver.ts';

/** A whole map, in memory. */
export type EditedMap = ChangeMapParts & { readonly forks: readonly ForkChanges[] };

/** All that the maps of the sealed files say that begin at `from` or later. */
export async function readChanges(destination: string, from: Lsn): Promise<readonly LogChange[]> {
  await using medium = await openMedium(`file://${destination}`);
  const changes: LogChange[] = [];
  for (const file of (await openArchive(destination)).files)
    if (file.hasIndex && file.begin >= from)
      changes.push(...(await Array.fromAsync(readChangeMap(medium, indexKey(file)))));
  return changes;
}

/** Writes the maps of all sealed files again. */
export async function editChangeMaps(
  destination: string,
  edit: (map: EditedMap) => ChangeMapParts,
): Promise<void> {
  await using medium = await openMedium(`file://${destination}`);
  for (const file of (await openArchive(destination)).files) {
    if (!file.hasIndex) continue;
    const key = indexKey(file);
    const changes = await Array.fromAsync(readChangeMap(medium, key));
    const index = await readLogIndex(medium, ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, file);
    const map = { ...partsOf(changes), unknownSpecial: undefined, walLevelMinimal: false, ...index.changes };
    await rm(join(destination, key));
    await writeLogIndex(medium, ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, {
      ...index,
      changeMap: edit(map),
    });
  }
}

function indexKey({ fileId, epoch }: { readonly fileId: bigint; readonly epoch: bigint }): string {
  return tree.logIndex(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, fileId, epoch);
}

function partsOf(changes: readonly LogChange[]): Omit<EditedMap, keyof ChangeWarnings> {
  const ofKind = <Kind extends LogChange['kind']>(kind: Kind) =>
    changes.filter((change): change is LogChange & { readonly kind: Kind } => change.kind === kind);
  return {
    forks: ofKind('fork'),
    droppedRelations: ofKind('droppedRelation'),
    createdDatabases: ofKind('createdDatabase'),
    droppedDatabases: ofKind('droppedDatabase'),
  };
}

/**
 * What the log changes from a position inside a log file on. The file's change map counts from the file's beginning, up to
 * 64 MiB of log earlier: a table that was loaded just before a full backup would be read again by its first increment. So
 * the log itself is read from the position on, which is little: the file was sealed soon behind it.
 */
import { ChangeMapCollector } from '../../../engine/postgres/wal/change-map.ts';
import { createLogInspector } from '../../../engine/postgres/wal/inspector.ts';
import type { Lsn, Timeline } from '../../../foundation/lsn.ts';
import type { ChangeWarnings, LogChange } from '../../../storage-layout/clog/change-map.ts';
import type { LogChunkRead } from '../../../storage-layout/clog/read-log-file.ts';

export type BoundaryChanges = {
  readonly warnings: ChangeWarnings;
  readonly changes: Iterable<LogChange>;
};

export type BoundaryLog = {
  readonly timeline: Timeline;
  /** Where a record begins. */
  readonly begin: Lsn;
  readonly segmentSizeBytes: number;
  readonly systemIdentifier: bigint;
  readonly major: number;
};

/** `chunks`: the log from `begin` to the end of a file. Throws WAL_UNREADABLE and what reading throws. */
export async function readBoundaryChanges(
  log: BoundaryLog,
  chunks: AsyncIterable<LogChunkRead>,
): Promise<BoundaryChanges> {
  const inspector = createLogInspector({ ...log, collectTouches: true });
  const collector = new ChangeMapCollector();
  for await (const { begin, data } of chunks) {
    inspector.push(begin, data);
    inspector.takeEvents();
    collector.addTouches(inspector.takeTouches());
  }
  const { unknownSpecial, walLevelMinimal, ...parts } = collector.parts();
  return { warnings: { unknownSpecial, walLevelMinimal }, changes: eachChange(parts) };
}

function* eachChange(
  parts: Omit<ReturnType<ChangeMapCollector['parts']>, keyof ChangeWarnings>,
): Generator<LogChange> {
  for (const fork of parts.forks) yield { kind: 'fork', ...fork, macroblocks: [...fork.macroblocks] };
  for (const relation of parts.droppedRelations) yield { kind: 'droppedRelation', ...relation };
  for (const database of parts.createdDatabases) yield { kind: 'createdDatabase', ...database };
  for (const database of parts.droppedDatabases) yield { kind: 'droppedDatabase', ...database };
}

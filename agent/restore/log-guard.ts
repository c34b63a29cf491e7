/**
 * Watches the log on its way to the recovering server for records that would reach outside the copy: CREATE TABLESPACE
 * carries its location as an absolute path, and replaying it beside its source would put the copy's files into the
 * source's tablespace. Such a location is allowed only when it was named (`a=a`) and is an empty directory.
 */
import { readdirSync } from 'node:fs';
import { isAbsolute } from 'node:path';
import type { LogInspector } from '../../engine/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../foundation/lsn.ts';
import { type LogToRead, readOptions } from './log-target.ts';
import type { Prepared } from './prepare.ts';

/**
 * A function for LogFeeder's `inspect`. What lies at or behind `until` is not looked at: recovery stops before. Throws
 * RESTORE_FAILED for a tablespace that would reach outside, and WAL_UNREADABLE for log that recovery could not pass.
 */
export function createLogGuard(
  log: LogToRead,
  tablespaceMap: ReadonlyMap<string, string>,
  until: Lsn | undefined,
): (timeline: Timeline, begin: Lsn, data: Uint8Array) => void {
  let inspector: LogInspector | undefined;
  let inspected: Timeline | undefined;
  return (timeline, begin, data) => {
    if (until !== undefined && begin >= until) return;
    if (inspector === undefined || inspected !== timeline) {
      // Each block of the log has been checked, and the archiver checked the records in it.
      inspector = createLogInspector({ ...readOptions(log, timeline, begin), checksRecords: false });
      inspected = timeline;
    }
    const failure = pushAndReport(inspector, begin, data);
    for (const event of inspector.takeEvents()) {
      if (until !== undefined && event.begin >= until) return;
      if (event.kind === 'createTablespace') checkLocation(event.location, event.begin, tablespaceMap);
    }
    if (failure === undefined) return;
    if (until === undefined || inspector.endOfRecords < until) throw failure;
  };
}

export function guardOf(prepared: Prepared): ReturnType<typeof createLogGuard> {
  const { target, log, request } = prepared;
  const until = target.kind === 'lsn' && !target.inclusive ? target.lsn : undefined;
  return createLogGuard(log, request.tablespaceMap, until);
}

function pushAndReport(inspector: LogInspector, begin: Lsn, data: Uint8Array): Error | undefined {
  try {
    inspector.push(begin, data);
    return undefined;
  } catch (error) {
    if (error instanceof Error) return error;
    throw error;
  }
}

function checkLocation(location: string, at: Lsn, map: ReadonlyMap<string, string>): void {
  if (!isAbsolute(location)) return; // in place: inside the data directory
  if (map.get(location) === location && isEmptyDirectory(location)) return;
  throw new HoldfastError(
    'RESTORE_FAILED',
    `the log creates a tablespace at ${location} (${formatLsn(at)}), which lies outside the restored directory`,
    {
      hint:
        `Take a backup after CREATE TABLESPACE and restore from that, restore to a point before it, or restore on a ` +
        `host where ${location} is an empty directory and name it: ${location}=${location}.`,
    },
  );
}

function isEmptyDirectory(path: string): boolean {
  try {
    return readdirSync(path).length === 0;
  } catch {
    return false; // absent or unreadable: PostgreSQL could not use it either
  }
}

/** A copy that is not started: it holds its log, and settings that replay it when somebody starts it by hand. */
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { recoveryAutoConf } from '../../engine/postgres/restore/settings.ts';
import { writeOwned } from './baseline.ts';
import { planCopyPlace, readAutoConf } from './copy-place.ts';
import { segmentSequence } from './log-feeder.ts';
import { guardOf } from './log-guard.ts';
import { NewFile } from './new-file.ts';
import type { Prepared } from './prepare.ts';

/** The log up to the target, in pg_wal. */
export async function layLog(prepared: Prepared, signal: AbortSignal): Promise<void> {
  const { request, dataDirectory, log, target } = prepared;
  const walDirectory = join(dataDirectory, 'pg_wal');
  for (const [timeline, history] of prepared.groupLog.histories) {
    const name = `${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
    await writeOwned(join(walDirectory, name), history, request.user);
  }
  // The record that recovery stops at must be whole: one more segment is enough for all but the longest.
  const until = target.kind === 'lsn' ? target.lsn + BigInt(log.segmentSizeBytes) : log.path.at(-1)?.end;
  const options = {
    reader: log.lookup,
    path: log.path,
    segmentSizeBytes: log.segmentSizeBytes,
    histories: prepared.groupLog.histories,
    inspect: guardOf(prepared),
  };
  let file: NewFile | undefined;
  try {
    for await (const { segment, position, data, isLast } of segmentSequence(options, signal)) {
      if (until !== undefined && segment.begin > until) break;
      const path = join(walDirectory, segment.name);
      file ??= await NewFile.create(`${path}.part`, path, request.user);
      await file.write(data, position);
      if (!isLast) continue;
      await file.finish(log.segmentSizeBytes);
      file = undefined;
    }
    await file?.finish(log.segmentSizeBytes);
  } finally {
    await file?.[Symbol.asyncDispose]();
  }
}

/** Settings that replay it; those of the baseline are there already. */
export async function laySettings(prepared: Prepared, signal: AbortSignal): Promise<void> {
  const { request, dataDirectory, target } = prepared;
  const port = await request.port();
  const place = await planCopyPlace(prepared, port, tmpdir(), signal);
  const auto = await readAutoConf(dataDirectory);
  const text = recoveryAutoConf(
    auto,
    place,
    // Status 1: no such file in the archive; the server goes on with pg_wal.
    { target, timeline: prepared.path.timeline, restoreCommand: 'exit 1' },
    join(dataDirectory, 'pg_hba.conf'),
  );
  await writeOwned(join(dataDirectory, 'postgresql.auto.conf'), text, request.user);
  await writeOwned(join(dataDirectory, 'recovery.signal'), '', request.user);
}

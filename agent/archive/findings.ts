/** What the inspector saw, gathered for one log file's index and for one block's header. */
import type { LogEvent, LogTouches } from '../../engine/engine.ts';
import { ChangeMapCollector } from '../../engine/postgres/wal/change-map.ts';
import type { Lsn } from '../../foundation/lsn.ts';
import type { LogCheckpointPoint, LogRestorePointAt, NewFindings } from '../../storage-layout/clog/index.ts';

export type CommitTimes = {
  readonly firstCommitUs: bigint | undefined;
  /** The greatest: commit times are not in the order of positions. */
  readonly lastCommitUs: bigint | undefined;
};

/** Commit and abort times among the events: a target time stops before either. */
export function commitTimes(events: Iterable<LogEvent>): CommitTimes {
  let firstCommitUs: bigint | undefined;
  let lastCommitUs: bigint | undefined;
  for (const event of events) {
    if (event.kind !== 'commit' && event.kind !== 'abort') continue;
    firstCommitUs ??= event.timeUs;
    if (lastCommitUs === undefined || event.timeUs > lastCommitUs) lastCommitUs = event.timeUs;
  }
  return { firstCommitUs, lastCommitUs };
}

/** What the records that end in one file say and change, as they come. */
export class FindingsCollector {
  readonly #checkpoints: LogCheckpointPoint[] = [];
  readonly #restorePoints: LogRestorePointAt[] = [];
  readonly #changes = new ChangeMapCollector();
  #maxCommitUs: bigint | undefined;

  /** `maxCommitUs`: the running maximum over the files before this one. */
  constructor(maxCommitUs: bigint | undefined) {
    this.#maxCommitUs = maxCommitUs;
  }

  get maxCommitUs(): bigint | undefined {
    return this.#maxCommitUs;
  }

  add(events: Iterable<LogEvent>): void {
    for (const event of events) {
      if (event.kind === 'checkpoint') {
        this.#checkpoints.push({ lsn: event.end, timeUs: event.timeUs });
      } else if (event.kind === 'restorePoint') {
        this.#restorePoints.push({ lsn: event.end, name: event.name, timeUs: event.timeUs });
      } else if (event.kind === 'commit' || event.kind === 'abort') {
        if (this.#maxCommitUs === undefined || event.timeUs > this.#maxCommitUs)
          this.#maxCommitUs = event.timeUs;
      }
    }
  }

  addTouches(touches: LogTouches): void {
    this.#changes.addTouches(touches);
  }

  /** Of all that was added; the change map is made while it is written. */
  findings(unfinishedRecordBegin: Lsn | undefined): NewFindings {
    return {
      maxCommitUs: this.#maxCommitUs,
      checkpoints: [...this.#checkpoints],
      restorePoints: [...this.#restorePoints],
      unfinishedRecordBegin,
      changeMap: this.#changes.parts(),
    };
  }
}

/** An archive of which a test looks at every file: what production code reads of it comes from the same lookup. */
import type { Lsn, Timeline } from '../../foundation/lsn.ts';
import type { LogFile } from '../../storage-layout/clog/log-file.ts';
import { type LogCoverage, LogLookup } from '../../storage-layout/clog/lookup.ts';
import type { LogChunkRead } from '../../storage-layout/clog/read-log-file.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import type { RoundKey, TreeRoot } from '../../storage-layout/tree.ts';

export class LogArchive {
  readonly lookup: LogLookup;
  /** Every file that says what it is, in order of (file id, epoch). */
  readonly files: readonly LogFile[];
  readonly #coverage: () => readonly LogCoverage[];

  private constructor(lookup: LogLookup, files: readonly LogFile[], coverage: () => readonly LogCoverage[]) {
    this.lookup = lookup;
    this.files = files;
    this.#coverage = coverage;
  }

  static async open(medium: Medium, root: TreeRoot, round: RoundKey, group: string): Promise<LogArchive> {
    const lookup = await LogLookup.open(medium, root, round, group);
    // Before the files are opened one by one: it must be right without that.
    const coverage = await lookup.coverage().then(
      (ranges) => () => ranges,
      (error: unknown) => () => {
        throw error;
      },
    );
    const files: LogFile[] = [];
    for (const place of lookup.files.names.keys()) {
      const file = await lookup.files.at(place, undefined);
      if (file !== undefined) files.push(file);
    }
    return new LogArchive(lookup, files, coverage);
  }

  get unsealed(): readonly LogFile[] {
    return this.files.filter((file) => !file.hasIndex);
  }

  /** The unbroken ranges, as they were when it was opened. Throws LOG_CONFLICT. */
  coverage(): readonly LogCoverage[] {
    return this.#coverage();
  }

  /** The file in which the log of the highest timeline ends; undefined without files. */
  end(): LogFile | undefined {
    return this.files.reduce<LogFile | undefined>(
      (best, file) =>
        best === undefined ||
        file.timeline > best.timeline ||
        (file.timeline === best.timeline && file.end >= best.end)
          ? file
          : best,
      undefined,
    );
  }

  read(timeline: Timeline, begin: Lsn, end: Lsn): AsyncGenerator<LogChunkRead, void, undefined> {
    return this.lookup.read(timeline, begin, end);
  }
}

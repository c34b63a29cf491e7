/**
 * A backup's copy. Of a full one, every file whole; of an increment, what the archive's change maps say was changed since the
 * start of the backup before, and the files that are always whole. The index of the backup before is read twice as a stream,
 * once to plan what is copied and once to write the new one; what was copied waits in an unnamed file. Nothing in memory
 * grows with the number of blocks.
 *
 * What a backup that goes on takes over from an earlier attempt (resume/take-over.ts) is planned in a pass of its own.
 */
import { join } from 'node:path';
import type { BackupStop, InstanceIdentity, LogPoint } from '../../engine/engine.ts';
import { parseTablespaceMap } from '../../engine/postgres/restore/tablespaces.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { EntryStream } from '../../storage-layout/macroblock/entry-stream.ts';
import { type IndexChunk, writeMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { tree } from '../../storage-layout/tree.ts';
import { copyControlFile } from './control-file-copy.ts';
import { type BegunBackup, checkNewestPage, type IndexedCopy, workerSettings } from './copy.ts';
import { entriesOf, makeCount } from './durable-sub-task.ts';
import { judgeSuspects, keptPaths } from './gather.ts';
import { needFull, readChangeMaps } from './increment/change-maps.ts';
import { ChangedPages } from './increment/changed-pages.ts';
import { differenceOf, rangesBetween } from './increment/decision.ts';
import { EntrySpill } from './increment/entry-spill.ts';
import { type IncrementFile, type NumbersBefore, numberFiles } from './increment/file-numbers.ts';
import { IndexMerge } from './increment/merge.ts';
import { planPieces } from './increment/plan.ts';
import type { SetBefore } from './increment/set-before.ts';
import { evenTasks, groupPieces, type Piece, shrinkingTasks } from './plan.ts';
import { attemptOf } from './resume/attempt.ts';
import { indexRetry } from './resume/redo.ts';
import { TakenOver } from './resume/taken-over.ts';
import { runSubTasks, type SubTaskCare } from './worker-pool.ts';
import type { SubTaskCopy, SuspectFound } from './worker-protocol.ts';

/** Throws FULL_BACKUP_NEEDED when the server's files cannot be compared with those of the backup before. */
export function checkComparable(before: SetBefore, identity: InstanceIdentity): void {
  const difference = differenceOf(before.backup, identity);
  if (difference !== undefined) needFull(difference);
}

/** `copy`, and when the window is closed `writeIndex`. */
export class BackupCopy implements Disposable {
  readonly #backup: BegunBackup;
  /** Undefined: a full backup. */
  readonly #before: SetBefore | undefined;
  readonly #takenOver: TakenOver | undefined;
  readonly #changed: ChangedPages;
  readonly #spill: EntrySpill;
  #files: readonly IncrementFile[] = [];
  #nextFileNumber = 0;
  #control: SubTaskCopy | undefined;
  #storedBytes = 0;
  readonly #suspects: SuspectFound[] = [];
  readonly #gone = new Set<number>();
  readonly #ends = new Map<number, number>();

  constructor(backup: BegunBackup, before: SetBefore | undefined) {
    const directory = join(backup.context.stateDirectory, 'increments');
    this.#backup = backup;
    this.#before = before;
    this.#changed = new ChangedPages(directory, backup.listing.files);
    this.#spill = new EntrySpill(directory);
    this.#takenOver = backup.resume === undefined ? undefined : new TakenOver(backup, backup.resume);
  }

  /**
   * Every macroblock that is to be copied, the control file's last. `signal` fires when the window is lost too. Throws
   * FULL_BACKUP_NEEDED before the first file is read.
   */
  async copy(signal: AbortSignal): Promise<void> {
    await this.#readChanges(signal);
    const { listing, target, task, medium, instance, workerCount, counters, redo, threads } = this.#backup;
    const { identity, start } = this.#backup;
    const { files, nextFileNumber } = numberFiles(
      listing.files,
      this.#before?.numbers ?? NO_NUMBERS,
      (path) => this.#changed.isNew(path),
      this.#takenOver?.numbers,
    );
    this.#files = files;
    this.#nextFileNumber = nextFileNumber;
    await this.#takenOver?.plan(files, () => this.#planPieces(() => undefined, signal), signal);
    const planned = this.#planPieces((kept) => {
      counters.add('plainBytes', kept.bytes);
      counters.add('macroblocks', kept.blocks);
      counters.add('files', kept.files);
    }, signal);
    const pieces = this.#takenOver?.leaveOut(planned, signal) ?? planned;
    // The control file's sub task comes first by its number and last in time.
    const { firstSubTaskId } = task;
    const totalBytes = listing.files.reduce((sum, file) => sum + file.sizeBytes, 0);
    const wantedBytes =
      this.#before === undefined ? shrinkingTasks(totalBytes, workerCount) : evenTasks(totalBytes);
    const subTasks = groupPieces(pieces, firstSubTaskId + 1, wantedBytes);
    const settings = workerSettings(this.#backup);
    const place = { medium, ...target };
    const attempt = attemptOf(task, identity, start);
    const care: SubTaskCare = {
      makeCount: async (...what) => await makeCount(place, attempt, ...what),
      onCopied: (copy) => this.#keep(copy),
      redo,
    };
    await runSubTasks(threads, subTasks, settings, care, signal);
    const control = files.find((file) => file.kind === 'control');
    if (control === undefined)
      throw new HoldfastError('BACKUP_FAILED', 'the data directory has no control file');
    const bytes = await instance.readControlFile(signal);
    counters.add('readBytes', bytes.length);
    this.#control = await redo.untilDone(
      firstSubTaskId,
      (id) => copyControlFile(place, id, control.fileNumber, bytes, signal),
      signal,
    );
    this.#storedBytes += this.#control.storedBytes;
  }

  /** Writes the index of all that the backup consists of. */
  async writeIndex(stopped: BackupStop, signal: AbortSignal): Promise<IndexedCopy> {
    const { medium, target, task, listing, start } = this.#backup;
    const isKept = keptPaths(listing, parseTablespaceMap(stopped.tablespaceMap));
    const failures = judgeSuspects(this.#suspects, start.lsn, stopped.stop.lsn);
    const failed = new Set(failures.map(({ suspect }) => `${suspect.fileNumber}.${suspect.macroblock}`));
    const settings = workerSettings(this.#backup);
    const write = async (_: number, tries: number) => {
      const merging = new IndexMerge({
        files: this.#files.filter(isKept),
        before: this.#openBefore(signal),
        copied: new EntryStream(this.#spill.chunks()),
        takenOver: this.#takenOver?.open(signal),
        control: this.#control === undefined ? [] : entriesOf(this.#control),
        gone: this.#gone,
        ends: this.#ends,
        pagesAreChecked: settings.pageChecksums,
        hasFailed: (fileNumber, blockNumber) => failed.has(`${fileNumber}.${blockNumber}`),
      });
      const retry = indexRetry(task.retry, tries);
      const key = tree.macroBlockIndex(target.root, target.setKey, target.group, retry);
      const facts = await writeMacroBlockIndex(medium, key, merging.entries(), signal);
      return { merge: merging, index: { key, facts } };
    };
    const { merge, index } = await this.#backup.redo.untilDone(0, write, signal);
    checkNewestPage(merge.newestPageLsn, stopped.stop.lsn);
    const { files, macroblockCount, plainBytes, newestPageLsn, named } = merge;
    const blockCounts = new Map(files.map((file) => [file.fileNumber, file.blockCount]));
    return {
      files,
      macroblockCount,
      plainBytes,
      newestPageLsn,
      failures: failures.filter(
        ({ suspect }) => suspect.macroblock < (blockCounts.get(suspect.fileNumber) ?? 0),
      ),
      storedBytes: this.#storedBytes + (this.#takenOver?.storedBytes ?? 0),
      nextFileNumber: this.#nextFileNumber,
      index,
      named,
    };
  }

  [Symbol.dispose](): void {
    this.#changed[Symbol.dispose]();
    this.#spill[Symbol.dispose]();
  }

  #openBefore(signal: AbortSignal): EntryStream {
    return this.#before?.openIndex(signal) ?? new EntryStream(noChunks());
  }

  #planPieces(
    onKept: Parameters<typeof planPieces>[3],
    signal: AbortSignal,
  ): AsyncGenerator<Piece, void, undefined> {
    return planPieces(this.#files, this.#openBefore(signal), (path) => this.#changed.mapsOf(path), onKept);
  }

  async #readChanges(signal: AbortSignal): Promise<void> {
    if (this.#before === undefined) return;
    const { start, medium, target, task, context, identity } = this.#backup;
    const decision = rangesBetween(this.#before.backup, start, await this.#ancestors(start, signal));
    if (decision.kind === 'full') needFull(decision.reason);
    const round = { tenantId: task.tenantId, round: task.round };
    const place = { medium, root: target.root, round, group: target.group, major: identity.major };
    await readChangeMaps(place, decision.ranges, this.#changed, context.clock, signal);
  }

  async #ancestors({ timeline }: LogPoint, signal: AbortSignal): Promise<ReturnType<typeof parseHistory>> {
    const history = await this.#backup.instance.timelineHistory(timeline, signal);
    return history === undefined ? [] : parseHistory(history);
  }

  #keep(copy: SubTaskCopy): void {
    this.#spill.add(copy);
    this.#storedBytes += copy.storedBytes;
    this.#suspects.push(...copy.suspects);
    for (const { fileNumber } of copy.vanished) this.#gone.add(fileNumber);
    for (const { fileNumber, endBlock } of copy.ended)
      this.#ends.set(fileNumber, Math.min(endBlock, this.#ends.get(fileNumber) ?? endBlock));
  }
}

const NO_NUMBERS: NumbersBefore = { byPath: new Map(), next: 1 };

async function* noChunks(): AsyncGenerator<IndexChunk, void, undefined> {
  // A full backup: there is no index before.
}

/** A full backup's copy: every file whole. */
import type { BackupStop } from '../../engine/engine.ts';
import { parseTablespaceMap } from '../../engine/postgres/restore/tablespaces.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { type Lsn, toLsn } from '../../foundation/lsn.ts';
import { type MacroBlockEntry, writeMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { tree } from '../../storage-layout/tree.ts';
import { copyControlFile } from './control-file-copy.ts';
import {
  type BackupCopy,
  type BegunBackup,
  checkNewestPage,
  type IndexedCopy,
  workerSettings,
} from './copy.ts';
import { gatherEntries, gatherFiles, gatherSuspects, judgeSuspects, keptPaths } from './gather.ts';
import { NamedFiles } from './named-files.ts';
import { type BackupPlan, planBackup } from './plan.ts';
import { indexRetry } from './resume/redo.ts';
import { copySubTasks } from './worker-pool.ts';
import type { SubTaskCopy } from './worker-protocol.ts';

export class FullCopy implements BackupCopy {
  readonly #backup: BegunBackup;
  readonly #plan: BackupPlan;
  #copies: readonly SubTaskCopy[] = [];

  constructor(backup: BegunBackup) {
    const { listing, workerCount, task } = backup;
    this.#backup = backup;
    this.#plan = planBackup(listing.files, { workerCount, firstSubTaskId: task.firstSubTaskId });
  }

  async copy(signal: AbortSignal): Promise<void> {
    const { medium, target, instance, workerCount } = this.#backup;
    const { subTasks, controlSubTaskId, files } = this.#plan;
    const { redo, threads } = this.#backup;
    const settings = workerSettings(this.#backup);
    const copies = await copySubTasks(threads, subTasks, settings, workerCount, redo, signal);
    const control = files.find((file) => file.kind === 'control');
    if (control === undefined)
      throw new HoldfastError('BACKUP_FAILED', 'the data directory has no control file');
    const bytes = await instance.readControlFile(signal);
    this.#backup.counters.add('readBytes', bytes.length);
    const place = { medium, ...target };
    const copy = await redo.untilDone(
      controlSubTaskId,
      (id) => copyControlFile(place, id, control.fileNumber, bytes, signal),
      signal,
    );
    this.#copies = [...copies, copy];
  }

  /** Judges what was copied. */
  async writeIndex(stopped: BackupStop, signal: AbortSignal): Promise<IndexedCopy> {
    const { medium, target, task, listing, start } = this.#backup;
    const copies = this.#copies;
    const isKept = keptPaths(listing, parseTablespaceMap(stopped.tablespaceMap));
    const gathered = gatherFiles(this.#plan.files.filter(isKept), copies);
    const failures = judgeSuspects(gatherSuspects(gathered, copies), start.lsn, stopped.stop.lsn);
    const named = new NamedFiles();
    const newest = newestPageLsn(gatherEntries(gathered, copies, []), named);
    checkNewestPage(newest, stopped.stop.lsn);
    const write = async (_: number, tries: number) => {
      const retry = indexRetry(task.retry, tries);
      const key = tree.macroBlockIndex(target.root, target.setKey, target.group, retry);
      const entries = gatherEntries(gathered, copies, failures);
      return { key, facts: await writeMacroBlockIndex(medium, key, entries, signal) };
    };
    const index = await this.#backup.redo.untilDone(0, write, signal);
    return {
      ...gathered,
      failures,
      newestPageLsn: newest,
      storedBytes: copies.reduce((sum, copy) => sum + copy.storedBytes, 0),
      nextFileNumber: this.#plan.files.length + 1,
      index,
      named,
    };
  }

  [Symbol.dispose](): void {
    // Nothing is held open.
  }
}

/** Notes the files of all entries in `named`. */
function newestPageLsn(entries: Iterable<MacroBlockEntry>, named: NamedFiles): Lsn {
  let newest = 0n;
  for (const entry of entries) {
    named.add(entry);
    if (entry.newestPageLsn > newest) newest = entry.newestPageLsn;
  }
  return toLsn(newest);
}

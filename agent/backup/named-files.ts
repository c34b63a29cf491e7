/**
 * The macroblock files that an index names, its own set's and earlier ones': all of them must be at the destination before
 * the backup counts. A share that was away for a moment, on whatever node, leaves a file on the disk below its mount point.
 */
import { HoldfastError } from '../../foundation/errors.ts';
import type { MacroBlockEntry, MacroBlockPlace } from '../../storage-layout/macroblock/entry.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { tree } from '../../storage-layout/tree.ts';
import { checkMountFile } from '../mount-file.ts';
import { needFull } from './increment/change-maps.ts';
import type { BackupTarget } from './target.ts';

export class NamedFiles {
  /** Sub task ids by set. */
  readonly #bySet = new Map<bigint, Set<number>>();

  add(entry: MacroBlockEntry): void {
    this.#addPlace(entry);
    if (entry.delta !== undefined) this.#addPlace(entry.delta);
  }

  #addPlace({ setId, subTaskId }: MacroBlockPlace): void {
    const ids = this.#bySet.get(setId) ?? new Set<number>();
    this.#bySet.set(setId, ids);
    ids.add(subTaskId);
  }

  /**
   * Throws DESTINATION_IO when a file of this backup's is gone: another attempt copies it again; FULL_BACKUP_NEEDED when one of
   * an earlier set is; BACKUP_MOUNT_FILE_NOT_VALID, and the medium's errors.
   */
  async checkAreThere(
    medium: Medium,
    { root, setKey, group, round }: Pick<BackupTarget, 'root' | 'setKey' | 'group' | 'round'>,
    signal: AbortSignal,
  ): Promise<void> {
    const directory = tree.macroDirectory(root, setKey.tenantId, setKey.fullSetId, group);
    const there = new Set(await medium.listNames(directory, signal));
    if (round !== undefined) await checkMountFile({ medium, root, round }, signal);
    for (const [setId, subTaskIds] of this.#bySet)
      for (const subTaskId of subTaskIds) {
        const key = tree.macroBlock(root, { ...setKey, setId }, group, subTaskId);
        if (there.has(key.slice(key.lastIndexOf('/') + 1))) continue;
        if (setId !== setKey.setId) needFull(`${key}, which the backup before needs, is gone`);
        throw new HoldfastError(
          'DESTINATION_IO',
          `${key} was written, and is gone from ${medium.displayUri}`,
          {
            hint: 'Was the share mounted on this node all the time?',
          },
        );
      }
  }
}

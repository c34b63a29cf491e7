/**
 * Going on from an earlier attempt of the same backup set. When this attempt's window is open, the indexes that the newest
 * earlier attempt left are looked for, and the archive's change maps between the two starts are read. Whatever keeps them
 * from being compared is a reason to take nothing over, and none to fail: all is copied then.
 */
import { join } from 'node:path';
import { isError } from '../../../foundation/errors.ts';
import type { BegunBackup } from '../copy.ts';
import { readChangeMaps } from '../increment/change-maps.ts';
import { ChangedPages } from '../increment/changed-pages.ts';
import { decideReuse } from './decision.ts';
import { type EarlierAttempt, findEarlierAttempt } from './earlier-attempts.ts';

/** How long the archiver may take to seal the log up to this start: the whole copy waits for it. */
const SEAL_WAIT_MS = 60_000;

/** What an attempt goes on from. */
export type ResumePoint = Disposable & {
  readonly earlier: EarlierAttempt;
  /** Since the earlier attempt's start. */
  readonly changed: ChangedPages;
};

/** Undefined when nothing is taken over; the reason is logged and reported. A destination that fails is waited out. */
export async function openResumePoint(
  backup: Omit<BegunBackup, 'resume'>,
  signal: AbortSignal,
): Promise<ResumePoint | undefined> {
  const { task, context, progress, redo } = backup;
  if (task.retry === 0) return undefined;
  const found = await redo.untilDone(task.firstSubTaskId, async () => await find(backup, signal), signal);
  if (typeof found !== 'string') return found;
  context.logger.warn({ backupSetId: String(task.backupSetId), reason: found }, 'no block is taken over');
  progress.refuseResume(task.retry, found);
  return undefined;
}

/** The point, or why there is none. */
async function find(backup: Omit<BegunBackup, 'resume'>, signal: AbortSignal): Promise<ResumePoint | string> {
  const { task, medium, target, identity, start, context, listing } = backup;
  let changed: ChangedPages | undefined;
  try {
    const earlier = await findEarlierAttempt(medium, target, task.retry, signal);
    if (earlier === undefined) return 'the attempts before had not made a sub task durable';
    const { previousSetId, round, pageCheck } = task;
    const decision = decideReuse(earlier.info, { identity, start, previousSetId, round, pageCheck });
    if (decision.kind === 'nothing') return decision.reason;
    const pages = new ChangedPages(join(context.stateDirectory, 'increments'), listing.files);
    changed = pages;
    await readChanges(backup, decision.range, pages, signal);
    return { earlier, changed: pages, [Symbol.dispose]: () => pages[Symbol.dispose]() };
  } catch (error) {
    changed?.[Symbol.dispose]();
    if (!isError(error, 'FULL_BACKUP_NEEDED', 'DATA_CORRUPT')) throw error;
    return error.message;
  }
}

async function readChanges(
  { medium, target, task, identity, context }: Omit<BegunBackup, 'resume'>,
  range: Parameters<typeof readChangeMaps>[1][number],
  changed: ChangedPages,
  signal: AbortSignal,
): Promise<void> {
  const round = { tenantId: task.tenantId, round: task.round };
  const place = { medium, root: target.root, round, group: target.group, major: identity.major };
  await readChangeMaps(
    place,
    range.begin === range.end ? [] : [range],
    changed,
    context.clock,
    signal,
    SEAL_WAIT_MS,
  );
}

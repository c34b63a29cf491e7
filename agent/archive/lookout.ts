/**
 * An eye on the server while an archiver runs, whether it streams or waits for its destination: how much log is kept,
 * whether the slot still holds it, how much room the disk has. What it sees is for the progress; only that the log which
 * is due next is gone for good ends anything.
 */
import type { Instance, LogPoint, SlotState } from '../../engine/engine.ts';
import type { Clock } from '../../foundation/clock.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn } from '../../foundation/lsn.ts';

const INTERVAL_MS = 2000;

export type Sight = {
  /** `reserved`, `extended`, `unreserved`, `lost`, a reason why it was invalidated, or `missing`. */
  readonly slotState: string;
  readonly slotRetainedBytes: bigint;
  /** Commits on the server wait for what is archived. */
  readonly synchronous: boolean;
  /** 0: not known. */
  readonly logDiskFreeBytes: bigint;
  readonly serverEnd: Lsn;
  readonly serverClockUs: bigint;
};

export type LookoutInput = {
  readonly connect: (signal: AbortSignal) => Promise<Instance>;
  readonly slotName: string;
  readonly clock: Clock;
  /** What is due next; undefined while it is not known, or while it is being streamed. */
  readonly due: () => LogPoint | undefined;
  readonly seen: (sight: Sight) => void;
};

/** Looks until the signal fires. Throws LOG_GAP when the slot was lost and the server has not what is due next. */
export async function keepLookout(input: LookoutInput, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      await using instance = await input.connect(signal);
      for (;;) {
        await look(input, instance, signal);
        await input.clock.sleep(INTERVAL_MS, signal);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof LogGone) throw error.gap;
    }
    await input.clock.sleep(INTERVAL_MS, signal).catch(() => undefined);
  }
}

class LogGone extends Error {
  readonly gap: HoldfastError;
  constructor(gap: HoldfastError) {
    super(gap.message);
    this.gap = gap;
  }
}

async function look(input: LookoutInput, instance: Instance, signal: AbortSignal): Promise<void> {
  const slot = await instance.slotState(input.slotName, signal);
  const { lsn, clockUs } = await instance.insertPosition(signal);
  input.seen({
    slotState: describeSlot(slot),
    slotRetainedBytes: slot.retainedBytes,
    synchronous: slot.synchronous,
    logDiskFreeBytes: (await instance.freeLogDiskBytes(signal)) ?? 0n,
    serverEnd: lsn,
    serverClockUs: clockUs,
  });
  const due = input.due();
  if (due === undefined || !isLost(slot) || (await instance.hasLog(due, signal))) return;
  throw new LogGone(
    new HoldfastError(
      'LOG_GAP',
      `the server has given up the log from ${formatLsn(due.lsn)} of timeline ${due.timeline}: replication slot "${input.slotName}" is ${describeSlot(slot)}`,
      {
        hint: 'Take a full backup in the next round; raise max_slot_wal_keep_size, or archive to a place that is there.',
      },
    ),
  );
}

function isLost(slot: SlotState): boolean {
  return !slot.exists || slot.walStatus === 'lost' || slot.invalidationReason !== '';
}

function describeSlot(slot: SlotState): string {
  return slot.invalidationReason || slot.walStatus || 'missing';
}

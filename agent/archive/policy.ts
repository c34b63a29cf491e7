/**
 * The archiver's decisions about bytes and times, without clock or I/O: when to flush, how much, when to seal, and how far
 * the checkpoint time may move.
 */
import type { Lsn } from '../../foundation/lsn.ts';

const MEBIBYTE = 1024 * 1024;
export const FLUSH_MIN_BYTES = MEBIBYTE;
export const FLUSH_MAX_BYTES = 8 * MEBIBYTE;
/** Bytes received and not yet durable: as much again gathers while a flush is written. Beyond it the socket is not read. */
export const BUFFER_BYTES = 2 * FLUSH_MAX_BYTES;
export const SEAL_LOG_BYTES = 64 * MEBIBYTE;
export const SEAL_FLUSHES = 256;
/** A flush per commit must not make several files each second: younger files take more flushes, up to a bound. */
export const SEAL_FLUSHES_AGE_MS = 60_000;
export const SEAL_FLUSHES_MOST = 16_384;
export const SEAL_AGE_MS = 3_600_000;
/** While idle a checkpoint record is written to the destination no more often than this: windows end within 5 s of now. */
export const IDLE_RECORD_INTERVAL_MS = 3000;
/** Polled positions that wait for durability; under load the newest replaces the one before. */
const CHECKPOINT_CANDIDATES = 32;

export type FlushInput = {
  readonly bufferedBytes: number;
  /** How long the oldest buffered byte has waited. */
  readonly oldestWaitedMs: number;
  readonly checkpointIntervalMs: number;
  readonly thresholdBytes: number;
  /** Someone waits for bytes that are not durable yet: a backup, a cut, a drain. */
  readonly wanted: boolean;
  /** Commits on the server wait for us: what has come is flushed, and what comes meanwhile is the next flush. */
  readonly synchronous: boolean;
};

/** Whether to flush now, or how long to wait at most for more bytes (undefined: until bytes come). */
export function decideFlush(
  input: FlushInput,
): { readonly kind: 'flush' } | { readonly kind: 'wait'; readonly ms: number | undefined } {
  if (input.bufferedBytes === 0) return { kind: 'wait', ms: undefined };
  const leftMs = input.checkpointIntervalMs - input.oldestWaitedMs;
  if (input.wanted || input.synchronous || input.bufferedBytes >= input.thresholdBytes || leftMs <= 0)
    return { kind: 'flush' };
  return { kind: 'wait', ms: leftMs };
}

/**
 * The next flush's size: doubled when as much again had gathered while the last one was written (the destination's
 * latency, not its rate, is the limit then), halved when the last one was small.
 */
export function nextThreshold(thresholdBytes: number, flushedBytes: number, gatheredBytes: number): number {
  if (gatheredBytes >= thresholdBytes) return Math.min(FLUSH_MAX_BYTES, thresholdBytes * 2);
  if (flushedBytes < thresholdBytes / 2) return Math.max(FLUSH_MIN_BYTES, thresholdBytes / 2);
  return thresholdBytes;
}

export type LogFileFacts = { readonly logBytes: number; readonly flushes: number; readonly ageMs: number };

/** Whether the open file is sealed before `nextBytes` more are appended. A file without log is never sealed: nothing is in it. */
export function mustSeal(file: LogFileFacts, nextBytes: number): boolean {
  if (file.logBytes === 0) return false;
  const flushes = file.ageMs >= SEAL_FLUSHES_AGE_MS ? SEAL_FLUSHES : SEAL_FLUSHES_MOST;
  return file.logBytes + nextBytes > SEAL_LOG_BYTES || file.flushes >= flushes || file.ageMs >= SEAL_AGE_MS;
}

/** A position and the server's clock read just before it: what was acknowledged before the clock lies before the position. */
export type PolledPosition = { readonly lsn: Lsn; readonly clockUs: bigint };

export type Checkpoint = {
  /** Everything acknowledged before this time is durable; 0: nothing known yet. */
  readonly timeUs: bigint;
  /** The position that was polled at that time. */
  readonly lsn: Lsn;
  readonly candidates: readonly PolledPosition[];
};

export const NO_CHECKPOINT: Checkpoint = { timeUs: 0n, lsn: 0n as Lsn, candidates: [] }; // zero: no position yet

/** Remembers a polled position; with the list full the newest takes the place of the one before it. */
export function addPolled(checkpoint: Checkpoint, polled: PolledPosition): Checkpoint {
  const kept = checkpoint.candidates.slice(0, CHECKPOINT_CANDIDATES - 1);
  return { ...checkpoint, candidates: [...kept, polled] };
}

/** Moves the time to the newest polled position that is durable. Never goes back, whatever the server's clock does. */
export function advanceCheckpoint(checkpoint: Checkpoint, durable: Lsn): Checkpoint {
  let { timeUs, lsn } = checkpoint;
  const candidates: PolledPosition[] = [];
  for (const candidate of checkpoint.candidates) {
    if (candidate.lsn > durable) {
      candidates.push(candidate);
    } else if (candidate.clockUs > timeUs) {
      timeUs = candidate.clockUs;
      lsn = candidate.lsn;
    }
  }
  return { timeUs, lsn, candidates };
}

/** Back-off before attempt `failures` + 1 of the same thing: 100 ms doubling to 5 s. */
export function backoffMs(failures: number): number {
  return Math.min(5000, 100 * 2 ** Math.min(failures - 1, 10));
}

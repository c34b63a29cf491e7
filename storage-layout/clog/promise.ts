/**
 * What a file promises of those before it (LogFileFacts.unbroken) holds for the files that its archiver saw. A name can be
 * lost in such a way that those of another archiver seem to stand in its place: so the promise has a digest of who wrote
 * the files of the main lane, and with which id each archiver began, which the names must give again. Pure.
 *
 *   digest = first 8 bytes, little-endian, of SHA-256(digest before it (8), epoch (8), its first file id (8))
 *
 * one step for each archiver after that of the file where the log begins, which has a digest of its own; 0 before all.
 */
import { createHash } from 'node:crypto';
import type { LogUnbroken } from './index.ts';
import type { Lane } from './lanes.ts';
import type { FileName, LogFile } from './log-file.ts';

/** True when the names from `head` to `tail`, places in the lane, are those that `tail`'s archiver speaks of. */
export function isPromiseOf(
  tail: LogFile,
  head: LogFile,
  names: readonly FileName[],
  lane: Lane,
  places: { readonly head: number; readonly tail: number },
): boolean {
  if (tail.unbroken === undefined || head.unbroken === undefined) return false;
  return digestOf(head, names, lane, places) === tail.unbroken.archivers;
}

/** What an archiver may promise that begins `next`, where the run ends which `head` begins. */
export function promiseBehind(
  head: LogFile,
  names: readonly FileName[],
  lane: Lane,
  places: { readonly head: number; readonly tail: number },
  next: FileName,
): LogUnbroken {
  const archivers = digestOf(head, names, lane, places);
  const last = names[lane[places.tail] ?? -1];
  return { since: head.begin, archivers: last?.epoch === next.epoch ? archivers : step(archivers, next) };
}

/** What an archiver promises that speaks of no file before its own. */
export function promiseOfNone(next: FileName, since: LogUnbroken['since']): LogUnbroken {
  return { since, archivers: step(0n, next) };
}

function digestOf(
  head: LogFile,
  names: readonly FileName[],
  lane: Lane,
  places: { readonly head: number; readonly tail: number },
): bigint {
  let digest = head.unbroken?.archivers ?? 0n;
  let { epoch } = head;
  for (let at = places.head + 1; at <= places.tail; at += 1) {
    const name = names[lane[at] ?? -1];
    if (name === undefined || name.epoch === epoch) continue;
    digest = step(digest, name);
    epoch = name.epoch;
  }
  return digest;
}

function step(before: bigint, { epoch, fileId }: FileName): bigint {
  const bytes = Buffer.alloc(24);
  bytes.writeBigUInt64LE(before, 0);
  bytes.writeBigUInt64LE(epoch, 8);
  bytes.writeBigUInt64LE(fileId, 16);
  return createHash('sha256').update(bytes).digest().readBigUInt64LE(0);
}

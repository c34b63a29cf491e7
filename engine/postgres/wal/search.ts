/** Finding a position in the log by time, or the first record from a position on. Pure but for the pieces it reads. */
import type { Lsn } from '../../../foundation/lsn.ts';
import { RecordDecoder } from './blocks.ts';
import { transactionEndOf } from './events.ts';
import { feedLog, type LogPieces } from './feed.ts';
import { WalParser, type WalParserOptions } from './parser.ts';

export type StopPoint = {
  /** Where the first commit or abort with a time after the wanted one begins. */
  readonly stop: Lsn;
  /** The newest commit or abort time before `stop` in what was read; undefined when there is none. */
  readonly lastCommitUs: bigint | undefined;
};

/**
 * The first commit or abort record whose time is > `timeUs` (microseconds since 1970); undefined when there is none:
 * then everything up to the log's end is before that time. Commit times do not grow with the position, so that an
 * earlier time may follow `stop`. Throws as LogInspector.push does, and the signal's reason.
 */
export async function findStopBeforeTime(
  pieces: LogPieces,
  options: WalParserOptions,
  timeUs: bigint,
  signal?: AbortSignal,
): Promise<StopPoint | undefined> {
  const decoder = new RecordDecoder();
  let stop: Lsn | undefined;
  let lastCommitUs: bigint | undefined;
  const parser = new WalParser(options, (record) => {
    const ended = transactionEndOf(record, decoder);
    if (ended === undefined) return true;
    if (ended.timeUs > timeUs) {
      stop = record.begin;
      return false;
    }
    if (lastCommitUs === undefined || ended.timeUs > lastCommitUs) lastCommitUs = ended.timeUs;
    return true;
  });
  for await (const _ of feedLog(parser, pieces, signal));
  return stop === undefined ? undefined : { stop, lastCommitUs };
}

export type FoundRecord = {
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly rmgr: number;
  readonly info: number;
  readonly xid: number;
};

/** The first record that begins at or after `lsn`; undefined when none that is whole was read. Throws as above. */
export async function findRecordAtOrAfter(
  pieces: LogPieces,
  options: WalParserOptions,
  lsn: Lsn,
  signal?: AbortSignal,
): Promise<FoundRecord | undefined> {
  let found: FoundRecord | undefined;
  const parser = new WalParser(options, (record) => {
    if (record.begin < lsn) return true;
    const { begin, end, rmgr, info, xid } = record;
    found = { begin, end, rmgr, info, xid };
    return false;
  });
  for await (const _ of feedLog(parser, pieces, signal));
  return found;
}

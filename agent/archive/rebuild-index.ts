/**
 * Making index files anew from their log files: for `holdfast repair clog`. The files of a partition group are gone
 * through in the order of their names, and their log is read once, as an archiver would have read it.
 *
 * - How far a file counts cannot be told from the file alone: behind it may lie what its archiver wrote after another had
 *   taken over. It counts as far as its index says, when that can be read and names an end of a block; else up to where a
 *   later file of the timeline begins; else as far as it is whole.
 * - An index holds nothing that its log file does not tell, so the new one replaces it in one atomic act. A file without
 *   an index gets one when a later file is there; the last is its archiver's.
 */
import { isDeepStrictEqual } from 'node:util';
import type { LogInspector } from '../../engine/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import type { WalVersion } from '../../engine/postgres/wal/page.ts';
import { isError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, segmentStart, toLsn } from '../../foundation/lsn.ts';
import { encodeChangeMap } from '../../storage-layout/clog/change-map.ts';
import {
  encodeLogIndex,
  type LogFileFacts,
  type LogFileIndex,
  type NewLogIndex,
  writeLogIndex,
} from '../../storage-layout/clog/index.ts';
import { dataKey, type FileName, findNames, type LogFile } from '../../storage-layout/clog/log-file.ts';
import { readLogFile } from '../../storage-layout/clog/read-log-file.ts';
import { scanLogFile } from '../../storage-layout/clog/scan.ts';
import { beginFile } from '../../storage-layout/encryption/key-ring.ts';
import { RECORD } from '../../storage-layout/records/types.ts';
import { tree } from '../../storage-layout/tree.ts';
import { FindingsCollector } from './findings.ts';
import type { LogPlace } from './place.ts';
import { factsOf, readStored, type Stored } from './stored-index.ts';

export type RepairedFile = {
  readonly fileId: bigint;
  readonly epoch: bigint;
  readonly begin: Lsn;
  readonly end: Lsn;
  /** `unreadable`: the log file itself says nothing, or its log cannot be read; nothing was done. */
  readonly verdict: 'right' | 'wrong' | 'missing' | 'open' | 'unreadable';
  /** What is wrong; empty when nothing is. */
  readonly reason: string;
};

export type RepairOptions = {
  readonly major: number;
  /** Says what would be done, and does nothing. */
  readonly dryRun: boolean;
};

/** Compares every index with its log file, and makes those anew that are missing or wrong. Throws the medium's errors. */
export async function* repairIndexes(
  place: LogPlace,
  options: RepairOptions,
  signal: AbortSignal,
): AsyncGenerator<RepairedFile, void, undefined> {
  const names = await findNames(place, signal);
  const reader = new LogReader(place, options.major);
  for (const [ordinal, name] of names.entries()) {
    const facts = (await scanLogFile(place.medium, dataKey(place, name), signal)).facts;
    if (facts === undefined) {
      yield {
        ...name,
        begin: toLsn(0n),
        end: toLsn(0n),
        verdict: 'unreadable',
        reason: 'it does not say what it is',
      };
      continue;
    }
    const stored = await readStored(place, name, signal);
    if (stored.kind === 'missing' && ordinal === names.length - 1) {
      yield verdict(facts, 'open', '');
      continue;
    }
    if (stored.kind === 'read' && facts.end < stored.index.end) {
      // An index that ends earlier would look as if nothing were missing.
      const reason = `its log ends at ${formatLsn(facts.end)}, its index says ${formatLsn(stored.index.end)}: what lies between is lost`;
      yield verdict(facts, 'unreadable', reason);
      continue;
    }
    const laterBegin =
      stored.kind === 'read'
        ? undefined
        : await findLaterBegin(place, names.slice(ordinal + 1), facts, signal);
    const accepted = accept(facts, stored.kind === 'read' ? stored.index : undefined, laterBegin);
    yield await repairOne(place, accepted, stored, reader, options, signal);
  }
}

/** The first position inside the file's log, other than its own begin, at which a later file of its timeline begins. */
async function findLaterBegin(
  place: LogPlace,
  later: readonly FileName[],
  facts: LogFileFacts,
  signal: AbortSignal,
): Promise<Lsn | undefined> {
  for (const name of later.slice(0, 2)) {
    const next = (await scanLogFile(place.medium, dataKey(place, name), signal)).facts;
    if (next?.timeline === facts.timeline && next.begin > facts.begin && next.begin < facts.end)
      return next.begin;
  }
  return undefined;
}

/** What of the scanned file counts. Pure. */
export function accept(
  facts: LogFileFacts,
  index: LogFileIndex | undefined,
  laterBegin: Lsn | undefined,
): LogFileFacts {
  const ends = facts.blocks.map((block) => toLsn(block.begin + BigInt(block.plainBytes)));
  const end =
    index !== undefined && (index.end === facts.begin || ends.includes(index.end))
      ? index.end
      : (laterBegin ?? facts.end);
  if (end >= facts.end) return facts;
  const blocks = facts.blocks.filter((block) => block.begin + BigInt(block.plainBytes) <= end);
  const last = blocks.at(-1);
  const acceptedBytes =
    index !== undefined && index.end === end
      ? index.acceptedBytes
      : last === undefined
        ? facts.acceptedBytes
        : last.offset + last.storedBytes;
  const checkpoint = index?.end === end ? index.checkpoint : facts.checkpoint;
  return {
    ...facts,
    end,
    blocks,
    acceptedBytes,
    checkpoint: checkpoint !== undefined && checkpoint.lsn <= end ? checkpoint : undefined,
    ...(index?.end === end ? { firstCommitUs: index.firstCommitUs, lastCommitUs: index.lastCommitUs } : {}),
  };
}

async function repairOne(
  place: LogPlace,
  facts: LogFileFacts,
  stored: Stored,
  reader: LogReader,
  options: RepairOptions,
  signal: AbortSignal,
): Promise<RepairedFile> {
  let rebuilt: NewLogIndex;
  try {
    const findings = await reader.read(facts, signal);
    if (findings === undefined)
      return stored.kind === 'read' && isDeepStrictEqual(factsOf(stored.index), factsOf(facts))
        ? verdict(facts, 'right', '')
        : verdict(facts, 'unreadable', 'the log before it is missing, so its records cannot be read');
    rebuilt = { ...facts, ...findings.findings(reader.unfinishedRecordBegin) };
  } catch (error) {
    if (!isError(error, 'WAL_UNREADABLE', 'DATA_CORRUPT')) throw error;
    return verdict(facts, 'unreadable', error.message);
  }
  const reason = disagreement(rebuilt, stored);
  if (reason === undefined) return verdict(facts, 'right', '');
  if (!options.dryRun) await put(place, rebuilt, stored, signal);
  return verdict(facts, stored.kind === 'missing' ? 'missing' : 'wrong', reason);
}

/** Undefined when the stored index says what the log file does. */
function disagreement(rebuilt: NewLogIndex, stored: Stored): string | undefined {
  if (stored.kind === 'missing') return 'there is no index';
  if (stored.kind === 'damaged') return stored.reason;
  const { changeMap, ...said } = rebuilt;
  const { changes, ...told } = stored.index;
  const differing = Object.keys({ ...told, ...said }).filter(
    (name) => !isDeepStrictEqual(Reflect.get(said, name), Reflect.get(told, name)),
  );
  if (differing.length > 0) return `it differs from its log file in ${differing.join(', ')}`;
  if (changeMap === undefined) return undefined;
  const { payloads, summary } = encodeChangeMap(changeMap);
  const same =
    isDeepStrictEqual(summary, changes) && Buffer.concat(payloads).equals(Buffer.concat(stored.payloads));
  return same ? undefined : 'its change map is not that of its log file';
}

async function put(place: LogPlace, index: NewLogIndex, stored: Stored, signal: AbortSignal): Promise<void> {
  const { medium, root, round, group } = place;
  if (stored.kind === 'missing') {
    await writeLogIndex(medium, root, round, group, index, signal);
    return;
  }
  const key = tree.logIndex(root, round, group, index.fileId, index.epoch);
  const begun = await beginFile(medium, key, RECORD.logIndex, signal);
  await medium.replace(key, encodeLogIndex(round, group, index, begun), signal);
}

/** Leads an inspector through the files' log, as long as one goes on where the one before ended. */
class LogReader {
  readonly #place: LogPlace;
  readonly #major: number;
  #inspector: LogInspector | undefined;
  #timeline: number | undefined;
  #maxCommitUs: bigint | undefined;

  constructor(place: LogPlace, major: number) {
    this.#place = place;
    this.#major = major;
  }

  get unfinishedRecordBegin(): Lsn | undefined {
    return this.#inspector?.unfinishedRecordBegin;
  }

  /** What the records say that end in the file; undefined when it cannot be entered. */
  async read(facts: LogFileFacts, signal: AbortSignal): Promise<FindingsCollector | undefined> {
    const collector = new FindingsCollector(this.#maxCommitUs);
    if (facts.end === facts.begin) return collector;
    const inspector = this.#enter(facts);
    if (inspector === undefined) return undefined;
    const file: LogFile = {
      ...facts,
      checkpoints: [],
      restorePoints: [],
      key: dataKey(this.#place, facts),
      hasIndex: false,
    };
    for await (const chunk of readLogFile(this.#place.medium, file, facts.begin, facts.end, signal)) {
      inspector.push(chunk.begin, chunk.data);
      collector.add(inspector.takeEvents());
      collector.addTouches(inspector.takeTouches());
    }
    this.#maxCommitUs = collector.maxCommitUs;
    return collector;
  }

  #enter(facts: LogFileFacts): LogInspector | undefined {
    if (this.#inspector?.position === facts.begin && this.#timeline === facts.timeline)
      return this.#inspector;
    const isSegmentStart = segmentStart(facts.begin, facts.segmentSizeBytes) === facts.begin;
    const isFork = this.#timeline !== undefined && this.#timeline < facts.timeline;
    this.#inspector = undefined;
    if (!isSegmentStart && !isFork) return undefined;
    this.#timeline = facts.timeline;
    const options = {
      segmentSizeBytes: facts.segmentSizeBytes,
      timeline: facts.timeline,
      systemIdentifier: facts.systemIdentifier,
      begin: facts.begin,
      collectTouches: true,
      version: this.#major as WalVersion, // of the round; an unknown page magic is refused by the reader
    };
    this.#inspector = createLogInspector(options);
    return this.#inspector;
  }
}

function verdict(facts: LogFileFacts, kind: RepairedFile['verdict'], reason: string): RepairedFile {
  const { fileId, epoch, begin, end } = facts;
  return { fileId, epoch, begin, end, verdict: kind, reason };
}

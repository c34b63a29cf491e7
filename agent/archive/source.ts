/**
 * The server's side of an archiver: proves that it is the right server, makes sure that it keeps its log, and starts the
 * stream where the destination's log ends. Wrong bytes are never archived: another system, a standby, a timeline
 * that does not descend from what is archived, or a server that has lost log which is archived already are refused by name.
 */
import type { Instance, InstanceIdentity, LogInspector, LogPoint, LogStream } from '../../engine/engine.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { formatLsn, segmentStart, type Timeline } from '../../foundation/lsn.ts';
import { parseHistory } from '../../storage-layout/plan/lineage.ts';
import { RECORD } from '../../storage-layout/records/framing.ts';
import { readBytes, writeBytesOnce } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import type { Lineage } from './continuation.ts';
import type { LogPlace } from './place.ts';
import type { LogSoFar } from './takeover.ts';

export type SourceOrder = {
  readonly slotName: string;
  /** 0: not known yet. */
  readonly expectedSystemIdentifier: bigint;
  /** Nothing of this round was ever reported as archived, so it may begin wherever the server's log does. */
  readonly fresh: boolean;
};

export type Source = {
  readonly identity: InstanceIdentity;
  /** Where the stream begins: the end of what is archived, or a segment's start in a fresh round. */
  readonly from: LogPoint;
  readonly stream: LogStream;
};

/** Who the server is, and which timelines it descends from. */
export type ServerFacts = {
  readonly identity: InstanceIdentity;
  /** Undefined on timeline 1. */
  readonly history: Buffer | undefined;
  readonly lineage: Lineage;
};

/** Throws LOG_ARCHIVE_LEADER_CHANGED when the instance is a standby, and what the server throws. */
export async function readServer(instance: Instance, signal: AbortSignal): Promise<ServerFacts> {
  const identity = await instance.identify(signal);
  if (identity.role === 'standby') {
    throw new HoldfastError(
      'LOG_ARCHIVE_LEADER_CHANGED',
      `instance "${instance.config.name}" is a standby: its primary's log is archived, not its own`,
    );
  }
  const history = await instance.timelineHistory(identity.timeline, signal);
  const ancestors = history === undefined ? [] : parseHistory(history);
  return { identity, history, lineage: { timeline: identity.timeline, ancestors } };
}

/**
 * Call it when the destination has been read: `log` must not be newer than what is asked of the server here. Throws LOG_GAP,
 * LOG_CONFLICT, SYSTEM_IDENTIFIER_MISMATCH: the round cannot go on; SERVER_UNREACHABLE and others: try again.
 */
export async function openSource(
  instance: Instance,
  { identity, history }: ServerFacts,
  place: LogPlace,
  log: LogSoFar | undefined,
  order: SourceOrder,
  signal: AbortSignal,
): Promise<Source> {
  // Its position is read behind the destination's: an archiver that this one takes over from may have moved the end since.
  const now = await instance.identify(signal);
  if (now.timeline !== identity.timeline || now.role !== identity.role) {
    throw new HoldfastError(
      'SERVER_UNREACHABLE',
      `instance "${instance.config.name}" changed its role or timeline while its archive was looked at`,
    );
  }
  checkIdentity(instance.config.name, now, log, order);
  const reserved = await instance.ensureSlot(order.slotName, signal);
  const from: LogPoint =
    log === undefined
      ? { timeline: identity.timeline, lsn: segmentStart(reserved, identity.segmentSizeBytes) }
      : { timeline: log.timeline, lsn: log.end };
  await storeHistory(place, identity.timeline, history, signal);
  const stream = await instance.openLogStream(order.slotName, from, signal);
  return { identity, from, stream };
}

/** Reads the stream from where it begins. */
export function inspectorFor(source: Source): LogInspector {
  return createLogInspector({
    segmentSizeBytes: source.identity.segmentSizeBytes,
    timeline: source.from.timeline,
    systemIdentifier: source.identity.systemIdentifier,
    begin: source.from.lsn,
    collectTouches: true,
  });
}

/** Pure. */
function checkIdentity(
  name: string,
  identity: InstanceIdentity,
  log: LogSoFar | undefined,
  order: SourceOrder,
): void {
  const expected = log?.systemIdentifier ?? order.expectedSystemIdentifier;
  if (expected !== 0n && identity.systemIdentifier !== expected) {
    throw new HoldfastError(
      'SYSTEM_IDENTIFIER_MISMATCH',
      `instance "${name}" has system identifier ${identity.systemIdentifier}, its partition group ${expected}`,
      {
        hint: 'Another server answers at this address, or the database was made anew: correct the agent configuration, or start a new round.',
      },
    );
  }
  if (log === undefined) {
    if (!order.fresh) {
      throw new HoldfastError('LOG_GAP', 'the destination holds no log of this round, which had begun', {
        hint: 'Log files were lost at the destination: start a new round and take a full backup.',
      });
    }
    return;
  }
  const rewound = log.timeline === identity.timeline && identity.lsn < log.end;
  if (identity.segmentSizeBytes !== log.segmentSizeBytes || rewound) {
    throw new HoldfastError(
      'LOG_CONFLICT',
      `instance "${name}" is at ${formatLsn(identity.lsn)}, but its log is archived up to ${formatLsn(log.end)}`,
      {
        hint: 'The server was set back to an earlier state: start a new round and take a full backup.',
      },
    );
  }
}

/** Keeps the timeline's history for ever; what is there already must say the same. */
async function storeHistory(
  place: LogPlace,
  timeline: Timeline,
  history: Buffer | undefined,
  signal: AbortSignal,
): Promise<void> {
  if (history === undefined) return;
  const key = tree.history(place.root, place.round, place.group, timeline);
  try {
    await writeBytesOnce(place.medium, key, RECORD.timelineHistory, history, signal);
  } catch (error) {
    if (!isError(error, 'FILE_EXISTS')) throw error;
    const stored = await readBytes(place.medium, key, RECORD.timelineHistory, signal);
    if (stored.equals(history)) return;
    throw new HoldfastError(
      'LOG_CONFLICT',
      `${key} tells another history of timeline ${timeline} than the server`,
      {
        cause: error,
        hint: 'Two servers were promoted to the same timeline: start a new round with the right one.',
      },
    );
  }
}

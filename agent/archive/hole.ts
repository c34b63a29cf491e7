/** What is lost when a round ends by its log: from the end of what is archived to where the server's log can go on. */
import { create } from '@bufbuild/protobuf';
import type { Instance, LogPoint } from '../../engine/engine.ts';
import { type Lsn, segmentStart } from '../../foundation/lsn.ts';
import { type LogHole, LogHoleSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';

export type HoleOrder = {
  readonly slotName: string;
  /** 0: not known. */
  readonly expectedSystemIdentifier: bigint;
  /** A new round follows by itself: it begins where the slot, made now, reserves log. Else the slot is given up. */
  readonly newRoundFollows: boolean;
};

/** Where the server's log can be archived again; undefined when this server is not the one that was archived, or no leader. */
export type Resumption = { readonly lsn: Lsn; readonly clockUs: bigint };

/** Reserves the server's log from now on, so that the hole does not grow. Throws what the server throws. */
export async function findResumption(
  instance: Instance,
  order: HoleOrder,
  signal: AbortSignal,
): Promise<Resumption | undefined> {
  const identity = await instance.identify(signal);
  const expected = order.expectedSystemIdentifier;
  if (identity.role === 'standby' || (expected !== 0n && expected !== identity.systemIdentifier))
    return undefined;
  const reserved = await instance.ensureSlot(order.slotName, signal);
  if (!order.newRoundFollows) await instance.dropSlot(order.slotName, signal);
  return { lsn: segmentStart(reserved, identity.segmentSizeBytes), clockUs: identity.clockUs };
}

/** Pure. A server that still has all of the log leaves no bytes out: then the hole is empty. */
export function describeHole(
  archived: LogPoint | undefined,
  checkpointUs: bigint,
  resumption: Resumption | undefined,
  reason: string,
): LogHole {
  const begin = archived?.lsn ?? 0n;
  const end = resumption === undefined || resumption.lsn > begin ? (resumption?.lsn ?? 0n) : begin;
  return create(LogHoleSchema, {
    ...(archived === undefined ? {} : { begin: { timeline: archived.timeline, lsn: archived.lsn } }),
    end,
    beginUs: checkpointUs,
    endUs: resumption?.clockUs ?? 0n,
    reason,
  });
}

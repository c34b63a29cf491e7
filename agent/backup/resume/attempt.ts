/** What an attempt of a backup says of itself in the indexes of its sub tasks, for the attempt that may follow it. */
import { create } from '@bufbuild/protobuf';
import type { InstanceIdentity, LogPoint } from '../../../engine/engine.ts';
import { type SubTaskIndexInfo, SubTaskIndexInfoSchema } from '../../../proto/gen/holdfast/v1/records_pb.ts';

export type Attempt = {
  readonly backupSetId: bigint;
  readonly partitionGroup: string;
  readonly retry: number;
  /** 0: a full backup. */
  readonly previousSetId: bigint;
  readonly pageCheck: boolean;
  readonly start: LogPoint;
  readonly systemIdentifier: bigint;
  readonly postgresMajor: number;
  readonly blockSizeBytes: number;
  readonly segmentSizeBytes: number;
  readonly pageChecksumVersion: number;
};

export function attemptOf(
  task: Pick<Attempt, 'backupSetId' | 'partitionGroup' | 'retry' | 'previousSetId' | 'pageCheck'>,
  identity: InstanceIdentity,
  start: LogPoint,
): Attempt {
  const { backupSetId, partitionGroup, retry, previousSetId, pageCheck } = task;
  const { systemIdentifier, major, blockSizeBytes, segmentSizeBytes, pageChecksumVersion } = identity;
  return {
    backupSetId,
    partitionGroup,
    retry,
    previousSetId,
    pageCheck,
    start: { timeline: start.timeline, lsn: start.lsn },
    systemIdentifier,
    postgresMajor: major,
    blockSizeBytes,
    segmentSizeBytes,
    pageChecksumVersion,
  };
}

/** `takenOver`: of the blocks that the attempt took over. */
export function infoOf(attempt: Attempt, subTaskId: number, takenOver: boolean): SubTaskIndexInfo {
  return create(SubTaskIndexInfoSchema, { ...attempt, subTaskId, takenOver });
}

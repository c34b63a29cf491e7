/** The agent's validation task: what the coordinator ordered as a part of VALIDATE. Any agent can do it. */
import { create } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { toLsn, toTimeline } from '../../foundation/lsn.ts';
import {
  type ValidateFinding,
  ValidateFindingSchema,
  type ValidateProgress,
  ValidateProgressSchema,
  type ValidateResult,
  ValidateResultSchema,
  type ValidateTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type CheckedLog,
  CheckedLogSchema,
  ClusterOwnerSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { readInfoIfThere } from '../../storage-layout/records/info-file.ts';
import { tree } from '../../storage-layout/tree.ts';
import { dataKeysOf } from '../data-keys.ts';
import type { TaskContext } from '../task-context.ts';
import type { Finding } from './findings.ts';
import type { ValidationStep } from './progress.ts';
import { runValidation, type Validation } from './validate.ts';

/**
 * Reads and checks what the task names. Throws DESTINATION_IO where the destination is not to be seen from this node (a
 * share that is not mounted looks empty: another agent may see it), and the medium's errors.
 */
export async function runValidateTask(
  context: TaskContext,
  task: ValidateTask,
  report: (progress: ValidateProgress) => void,
  signal: AbortSignal,
): Promise<ValidateResult> {
  const validation = validationOf(task);
  await refuseWrongPlace(validation, signal);
  const beginUs = context.clock.nowUs();
  const done = await runValidation(
    validation,
    (step) => report(create(ValidateProgressSchema, progressOf(step))),
    signal,
  );
  await refuseWrongPlace(validation, signal); // a share that went away meanwhile lost nothing
  return create(ValidateResultSchema, {
    beginUs,
    endUs: context.clock.nowUs(),
    macroblockCount: done.blockCount,
    bytes: done.bytes,
    logBytes: done.logBytes,
    findingCount: BigInt(done.findingCount),
    findings: done.findings.map(formatFinding),
    logs: done.logs.map((range) => logOf(task.partitionGroup, range)),
  });
}

async function refuseWrongPlace({ uri, root }: Validation, signal: AbortSignal): Promise<void> {
  await using medium = await openMedium(uri, signal);
  const key = tree.clusterOwner(root);
  if ((await readInfoIfThere(medium, key, ClusterOwnerSchema, signal)) !== undefined) return;
  throw new HoldfastError('DESTINATION_IO', `${medium.displayUri} has no ${key} on this node`, {
    hint: 'Is the share mounted on this node?',
  });
}

function validationOf(task: ValidateTask): Validation {
  const { source, subject, tenantId, partitionGroup } = task;
  if (source === undefined || subject.case === undefined)
    throw new HoldfastError('INVALID_ARGUMENT', 'a validation task without its source or subject');
  return {
    uri: source.uri,
    keys: dataKeysOf(source),
    root: { clusterName: source.clusterName, clusterId: source.clusterId },
    tenantId,
    partitionGroup,
    concurrency: task.concurrency === 0 ? undefined : task.concurrency,
    subject:
      subject.case === 'set'
        ? {
            kind: 'set',
            key: { tenantId, fullSetId: subject.value.fullSetId, setId: subject.value.backupSetId },
          }
        : {
            kind: 'log',
            round: subject.value.round,
            checked: subject.value.checked.map(rangeOfLog),
            until:
              subject.value.until === undefined
                ? undefined
                : { timeline: toTimeline(subject.value.until.timeline), lsn: toLsn(subject.value.until.lsn) },
          },
  };
}

function rangeOfLog({ timeline, begin, end }: CheckedLog): LogRange {
  return { timeline: toTimeline(timeline), begin: toLsn(begin), end: toLsn(end) };
}

function logOf(partitionGroup: string, range: LogRange): CheckedLog {
  return create(CheckedLogSchema, { partitionGroup, ...range });
}

function progressOf(step: ValidationStep) {
  return {
    phase: step.phase,
    bytesDone: step.bytesDone + step.logBytesDone,
    bytesTotal: step.bytesTotal + step.logBytesTotal,
    macroblocksDone: step.blocksDone,
    macroblocksTotal: step.blocksTotal,
    logBytesDone: step.logBytesDone,
    logBytesTotal: step.logBytesTotal,
    findingCount: BigInt(step.findingCount),
  };
}

function formatFinding(finding: Finding): ValidateFinding {
  return create(ValidateFindingSchema, {
    code: finding.code,
    object: finding.key,
    offset: BigInt(finding.offset ?? -1),
    message: finding.message,
    files: finding.files.map((file) => ({
      path: file.path,
      databaseOid: file.databaseOid,
      databaseName: file.databaseName,
      relFileNumber: file.relFileNumber,
      macroblockCount: BigInt(file.blockCount),
    })),
    fileCount: BigInt(finding.fileCount),
    backupSetIds: [...finding.setIds],
    shortenedSetIds: [...finding.shortenedSetIds],
  });
}

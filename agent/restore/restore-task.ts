/** The agent's restore task: what the coordinator ordered as a restore on this node. */
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { HoldfastError } from '../../foundation/errors.ts';
import { toLsn, toTimeline } from '../../foundation/lsn.ts';
import {
  type RestoreProgress,
  RestoreProgressSchema,
  type RestoreResult,
  RestoreResultSchema,
  type RestoreTask,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { dataKeysOf } from '../data-keys.ts';
import type { RestoreSettings, TaskContext } from '../task-context.ts';
import { freePortIn } from './free-port.ts';
import { removeInterrupted } from './interrupted.ts';
import type { WantedTarget } from './log-target.ts';
import type { RestoreRequest } from './prepare.ts';
import type { RestoreStep } from './progress.ts';
import { type RestoreOutcome, runRestore } from './restore.ts';
import { resolveTarget } from './target-directory.ts';

/**
 * Restores one partition group below the agent's restore directory and leaves its server running. Throws INVALID_CONFIG
 * when this agent takes no restores or has no PostgreSQL of that version, and what runRestore throws; nothing is left
 * behind then.
 */
export async function runRestoreTask(
  context: TaskContext,
  task: RestoreTask,
  report: (progress: RestoreProgress) => void,
  signal: AbortSignal,
): Promise<RestoreResult> {
  const { restore } = context;
  if (restore === undefined) throw new HoldfastError('INVALID_CONFIG', 'this agent takes no restores');
  const request = requestOf(task, restore);
  if (await removeInterrupted(await resolveTarget(request.dataDirectory), context.clock, signal))
    context.logger.warn({ dataDirectory: request.dataDirectory }, 'removed what an interrupted restore left');
  const outcome = await runRestore(
    request,
    (step) => report(create(RestoreProgressSchema, progressOf(step))),
    signal,
  );
  context.logger.info(
    { tenant: task.newTenant, dataDirectory: outcome.dataDirectory, port: outcome.server?.port },
    'restored',
  );
  return create(RestoreResultSchema, resultOf(outcome));
}

/** `<restore directory>/<tenant id>_<tenant>/<partition group>`: ids are never used again, names are. */
function directoryOf(task: RestoreTask, directory: string): string {
  const tenant = `${task.newTenantId}_${task.newTenant.replaceAll(/[^A-Za-z0-9_.-]/g, '_')}`;
  return join(directory, tenant, task.partitionGroup.replaceAll(/[^A-Za-z0-9_.-]/g, '_'));
}

function requestOf(task: RestoreTask, restore: RestoreSettings): RestoreRequest {
  const { source, target } = task;
  if (source === undefined || target === undefined)
    throw new HoldfastError('INVALID_ARGUMENT', 'a restore task without its source or target');
  return {
    uri: source.uri,
    keys: dataKeysOf(source),
    root: { clusterName: source.clusterName, clusterId: source.clusterId },
    set: { tenantId: task.sourceTenantId, fullSetId: task.fullSetId, setId: task.backupSetId },
    round: task.round,
    partitionGroup: task.partitionGroup,
    target: wantedTarget(target),
    timeline: target.timeline === 0 ? undefined : toTimeline(target.timeline),
    dataDirectory: directoryOf(task, restore.directory),
    tablespaceMap: new Map(Object.entries(task.tablespaceMap)),
    concurrency: task.concurrency === 0 ? undefined : task.concurrency,
    user: restore.runAs,
    unit:
      task.unit === undefined
        ? undefined
        : { maxMemoryBytes: task.unit.maxMemoryBytes, maxSessions: task.unit.maxSessionNum },
    checkUser: restore.connect.user,
    delta: false,
    start: true,
    binDirectory: (major) => binDirectoryOf(restore, major),
    port: () => freePortIn(restore.portRange),
  };
}

function wantedTarget(target: NonNullable<RestoreTask['target']>): WantedTarget {
  const inclusive = !target.exclusive;
  switch (target.kind.case) {
    case 'timeUs':
      return { kind: 'time', timeUs: target.kind.value, inclusive };
    case 'lsn':
      return { kind: 'lsn', lsn: toLsn(target.kind.value), inclusive };
    case 'xid':
      return { kind: 'xid', xid: target.kind.value, inclusive };
    case 'name':
      return { kind: 'name', name: target.kind.value, inclusive };
    case 'immediate':
      return target.kind.value ? { kind: 'immediate' } : { kind: 'endOfLog' };
    default:
      return { kind: 'endOfLog' };
  }
}

function binDirectoryOf(restore: RestoreSettings, major: number): string {
  const directory = restore.binDirectories.get(major);
  if (directory !== undefined) return directory;
  throw new HoldfastError('INVALID_CONFIG', `this agent has no PostgreSQL ${major} to restore with`, {
    hint: `Install it and name its bin directory under restore.bin_directories: "${major}": /path/bin`,
  });
}

function progressOf(step: RestoreStep) {
  return {
    phase: step.phase,
    bytesDone: step.bytesDone,
    bytesTotal: step.bytesTotal,
    macroblocksDone: step.blocksDone,
    macroblocksTotal: step.blocksTotal,
    replayLsn: step.replayLsn ?? 0n,
    targetLsn: step.targetLsn ?? 0n,
  };
}

function resultOf(outcome: RestoreOutcome) {
  const { server } = outcome;
  return {
    host: server?.host ?? '',
    port: server?.port ?? 0,
    dataDirectory: outcome.dataDirectory,
    ...(server?.replayed === undefined
      ? {}
      : { reached: { timeline: server.timeline, lsn: server.replayed } }),
    serverVersion: server?.serverVersion ?? '',
    bytesRestored: outcome.bytesRestored,
    tablespaceDirectories: outcome.tablespaces.map((tablespace) => tablespace.directory),
    lastCommitUs: server?.lastCommitUs ?? 0n,
  };
}

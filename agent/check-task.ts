/** What the coordinator asks before ARCHIVELOG or BACKUP: does the instance allow it, and can this node use the destination. */
import { create } from '@bufbuild/protobuf';
import type { CheckItem } from '../engine/engine.ts';
import { formatError, toHoldfastError } from '../foundation/errors.ts';
import { type CheckResult, CheckResultSchema, type CheckTask } from '../proto/gen/holdfast/v1/agent_pb.ts';
import { maskUri, openMedium, probeMedium } from '../storage-layout/media/open.ts';
import { tree } from '../storage-layout/tree.ts';
import type { TaskContext } from './task-context.ts';

/** Every item, passed or not. A server that cannot be reached is an item that did not pass, not an error. */
export async function runCheckTask(
  context: TaskContext,
  task: CheckTask,
  _report: (progress: never) => void,
  signal: AbortSignal,
): Promise<CheckResult> {
  const items = [...(await checkInstance(context, task, signal)), ...(await checkDestination(task, signal))];
  return create(CheckResultSchema, { items: [...items] });
}

async function checkInstance(
  context: TaskContext,
  task: CheckTask,
  signal: AbortSignal,
): Promise<readonly CheckItem[]> {
  if (task.instance === '') return [];
  try {
    await using instance = await context.instance(task.instance, signal);
    return await instance.precheck(purposeOf(task), signal);
  } catch (error) {
    signal.throwIfAborted();
    return [failedItem('connection', `instance ${task.instance} answers`, error)];
  }
}

function purposeOf({ purpose }: CheckTask): 'archive' | 'standby' | 'backup' {
  return purpose === 'backup' || purpose === 'standby' ? purpose : 'archive';
}

async function checkDestination(task: CheckTask, signal: AbortSignal): Promise<readonly CheckItem[]> {
  const { destination } = task;
  if (destination === undefined || destination.uri === '') return [];
  const wanted = 'a file can be written, read back, listed and deleted from this node';
  try {
    await using medium = await openMedium(destination.uri, signal);
    const root = tree.root({ clusterName: destination.clusterName, clusterId: destination.clusterId });
    await probeMedium(medium, root, signal);
    return [{ name: 'destination', passed: true, found: maskUri(destination.uri), wanted, fix: '' }];
  } catch (error) {
    signal.throwIfAborted();
    return [failedItem('destination', wanted, error)];
  }
}

function failedItem(name: string, wanted: string, error: unknown): CheckItem {
  const failure = toHoldfastError(error);
  const found =
    failure.detail === undefined ? formatError(failure) : `${formatError(failure)} (${failure.detail})`;
  return { name, passed: false, found, wanted, fix: failure.hint ?? '' };
}

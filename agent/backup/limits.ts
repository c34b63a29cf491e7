/** The limits of a backup task: those it began with, then those that its coordinator orders. */

import { create } from '@bufbuild/protobuf';
import { type BackupTask, type CopyLimits, CopyLimitsSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { TaskContext } from '../task-context.ts';
import type { LoadLimits } from './load/controller.ts';
import { LoadWatch } from './load/load-watch.ts';
import { SharedLimits } from './throttle.ts';

/** A task that reads no server: only what it writes is limited. */
export function netLimitsOf(context: TaskContext, task: BackupTask): SharedLimits {
  const limits = new SharedLimits();
  const set = ({ netBytesPerSecond }: CopyLimits) => {
    limits.bytesPerSecond = Number(netBytesPerSecond);
  };
  set(firstLimits(task));
  context.control.onLimits(set);
  return limits;
}

export type LimitedCopy = AsyncDisposable & { readonly limits: SharedLimits };

/** A task that copies a server: its load is watched until this is disposed. */
export function limitCopy(context: TaskContext, task: BackupTask): LimitedCopy {
  const limits = netLimitsOf(context, task);
  const watch = new LoadWatch(context, task.instance, loadLimits(firstLimits(task)), limits);
  context.control.onLimits((ordered) => watch.limit(loadLimits(ordered)));
  return { limits, [Symbol.asyncDispose]: () => watch[Symbol.asyncDispose]() };
}

function firstLimits({ limits, netLimitBytesPerSecond }: BackupTask): CopyLimits {
  return limits ?? create(CopyLimitsSchema, { netBytesPerSecond: netLimitBytesPerSecond });
}

function loadLimits({ commitLatencyMs, ioWaitPercent }: CopyLimits): LoadLimits {
  return { commitLatencyMs, ioWaitPercent };
}

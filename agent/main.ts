/**
 * The agent: one process per database node. It attaches to the coordinator and runs what it is told; it decides nothing
 * that outlives a task. It keeps its UUID and the instances that it restored (state.ts), nothing else.
 */
import { readFile } from 'node:fs/promises';
import { flushCompileCache } from 'node:module';
import { credentials } from '@grpc/grpc-js';
import { assertNever } from '../foundation/assert.ts';
import { systemClock } from '../foundation/clock.ts';
import { HoldfastError } from '../foundation/errors.ts';
import type { Logger } from '../foundation/log.ts';
import type { RestoreTask, Welcome } from '../proto/gen/holdfast/v1/agent_pb.ts';
import { runArchiveTask } from './archive/archive-task.ts';
import { stayAttached } from './attach.ts';
import { runBackupTask } from './backup/run-backup-task.ts';
import { runCheckTask } from './check-task.ts';
import { type AgentConfig, declaredInstances, restoreSettings, secretReader } from './config.ts';
import { Instances } from './instances.ts';
import { runRestoreTask } from './restore/restore-task.ts';
import { SlotKeeper } from './slot-keeper.ts';
import { AgentState } from './state.ts';
import type { RestoreSettings, TaskContext, TaskControl } from './task-context.ts';
import { type RunTask, TaskRunner } from './task-runner.ts';
import { runValidateTask } from './validate/validate-task.ts';

/**
 * Runs until the signal fires; then archivers flush and seal, other tasks are given up, the coordinator is told, and it
 * returns. Throws INVALID_CONFIG for what the configuration names and is not there.
 */
export async function runAgent(config: AgentConfig, signal: AbortSignal, logger: Logger): Promise<void> {
  const restore = await restoreSettings(config);
  const state = await AgentState.open(config.state_directory);
  const configured = declaredInstances(config);
  await using instances = new Instances(() => [...configured, ...state.restoredInstances(restore)]);
  let welcome: Welcome | undefined;
  const contextOf = (control: TaskControl): TaskContext => ({
    logger,
    clock: systemClock,
    instance: (name, taskSignal) => instances.connect(name, taskSignal),
    instanceConfig: (name) => instances.config(name),
    stateDirectory: state.directory,
    restore,
    server: { serverId: welcome?.serverId ?? 0n, ip: config.node.ip, port: config.node.port },
    control,
  });
  const runner = new TaskRunner(dispatch(contextOf, state, restore), systemClock, logger);
  const slots = new SlotKeeper(instances, systemClock, logger);
  flushCompileCache(); // a killed agent would not leave it to the next one
  const attachment = new AbortController();
  const attached = stayAttached(
    {
      addresses: typeof config.coordinator === 'string' ? [config.coordinator] : config.coordinator,
      credentials: await channelCredentials(config),
      token: config.token_file === undefined ? undefined : secretReader(config.token_file),
      agentUuid: state.agentUuid,
      node: config.node,
      restoreDirectory: restore?.directory,
      instances,
      runner,
      slots,
      onWelcome: (received) => {
        welcome = received;
      },
      clock: systemClock,
      logger,
    },
    attachment.signal,
  );
  logger.info({ agentUuid: state.agentUuid, instances: configured.length }, 'agent runs');
  await new Promise<void>((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (signal.aborted) resolve();
  });
  // The stream stays open meanwhile, so that the last results arrive.
  await runner.shutdown();
  attachment.abort(signal.reason);
  await attached;
  await slots.settle();
}

/** Which function runs which kind of task. */
function dispatch(
  contextOf: (control: TaskControl) => TaskContext,
  state: AgentState,
  restore: RestoreSettings | undefined,
): RunTask {
  return async (task, control, report, signal) => {
    const context = contextOf(control);
    switch (task.kind.case) {
      case 'archive': {
        const value = await runArchiveTask(
          context,
          task.kind.value,
          (progress) => report({ case: 'archive', value: progress }),
          signal,
        );
        return { case: 'archive', value };
      }
      case 'backup': {
        const value = await runBackupTask(
          context,
          task.kind.value,
          (progress) => report({ case: 'backup', value: progress }),
          signal,
        );
        return { case: 'backup', value };
      }
      case 'restore': {
        refuseWithoutSettings(restore);
        const value = await runRestoreTask(
          context,
          task.kind.value,
          (progress) => report({ case: 'restore', value: progress }),
          signal,
        );
        await declareRestored(state, task.kind.value, value);
        return { case: 'restore', value };
      }
      case 'check':
        return {
          case: 'check',
          value: await runCheckTask(context, task.kind.value, () => undefined, signal),
        };
      case 'validate': {
        const value = await runValidateTask(
          context,
          task.kind.value,
          (progress) => report({ case: 'validate', value: progress }),
          signal,
        );
        return { case: 'validate', value };
      }
      case undefined:
        throw new HoldfastError('NOT_SUPPORTED', 'this agent does not know that kind of task', {
          hint: 'Is the agent older than the coordinator?',
        });
      default:
        return assertNever(task.kind);
    }
  };
}

function refuseWithoutSettings(restore: RestoreSettings | undefined): void {
  if (restore !== undefined) return;
  throw new HoldfastError('INVALID_CONFIG', 'this agent takes no restores', {
    hint: 'Add the section restore: to its configuration.',
  });
}

/** From now on the instance is declared to the coordinator under the ids that the RESTORE gave it. */
async function declareRestored(
  state: AgentState,
  task: RestoreTask,
  made: { readonly host: string; readonly port: number; readonly dataDirectory: string },
): Promise<void> {
  await state.addRestored({
    name: task.newInstance,
    tenant: task.newTenant,
    tenantId: task.newTenantId,
    partitionGroup: task.partitionGroup,
    host: made.host,
    port: made.port,
    dataDirectory: made.dataDirectory,
  });
}

async function channelCredentials(config: AgentConfig): Promise<ReturnType<typeof credentials.createSsl>> {
  const { tls } = config;
  if (tls === undefined) return credentials.createInsecure();
  const [ca, key, certificate] = await Promise.all(
    [tls.ca_file, tls.key_file, tls.certificate_file].map(async (file) =>
      file === undefined ? null : await readFile(file),
    ),
  );
  return credentials.createSsl(ca, key, certificate);
}

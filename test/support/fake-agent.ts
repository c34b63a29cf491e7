/**
 * An agent without a database: it speaks the real protocol, writes real log files, and says of a backup what it is told to
 * say. Tasks go on while the stream is down; `forget` is what a restart does.
 */
import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { HoldfastError, toHoldfastError } from '../../foundation/errors.ts';
import { toLsn } from '../../foundation/lsn.ts';
import {
  type AgentMessage,
  AgentMessageSchema,
  AgentService,
  type ArchiveTask,
  type BackupProgress,
  BackupResultSchema,
  type BackupTask,
  type CoordinatorMessage,
  type DestinationReach,
  type KeptSlot,
  type LimitTask,
  type StartTask,
  type TaskProgress,
  type TaskResult,
  type ValidateProgress,
  type ValidateResult,
  ValidateResultSchema,
  type ValidateTask,
  type Welcome,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import {
  type FileDigest,
  FileDigestSchema,
  type PartitionGroupBackup,
  PartitionGroupBackupSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import {
  type MessageStream,
  makeClient,
  type ServiceClient,
  toErrorDetail,
} from '../../proto/grpc-service.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import { FakeArchive, SEGMENT_BYTES } from './fake-archive.ts';
import { heartbeat, instanceOf } from './fake-heartbeat.ts';

const FIRST_SYSTEM = 7_000_000_000_000_000_000n;
const BACKUP_START = toLsn(0x3000100n);
const BACKUP_STOP = toLsn(0x3000200n);

export type FakeAgentOptions = {
  readonly address: string;
  readonly tenant: string;
  readonly token?: string;
  /** Default `p0`. */
  readonly partitionGroup?: string;
  /** Its name; default `main`. */
  readonly instance?: string;
  /** Default: each tenant's is its own. */
  readonly systemIdentifier?: bigint;
  /** A backup's result waits for it. */
  holdBackup?: Promise<void>;
  /** Makes the files of a backup and says what it made, system identifier 0: this agent's; default: three files with nothing in them. */
  copy?: (task: BackupTask, report: (progress: BackupProgress) => void) => Promise<PartitionGroupBackup>;
  /** Seals log files when it is asked to, with change maps in which nothing was changed; default: it never does. */
  readonly seals?: boolean;
  /** What a validation says; default: that nothing is wrong. */
  validate?: (task: ValidateTask, report: (progress: ValidateProgress) => void) => Promise<ValidateResult>;
  /** What the checks find wrong. */
  failedCheck?: string;
  /** What heartbeats and archive reports say besides what every fake agent says; may change at any time. */
  instanceStatus?: { readonly maxSlotWalKeepSize?: string; readonly idleReplicationSlotTimeout?: string };
  archiveProgress?: {
    readonly destination?: DestinationReach;
    readonly destinationAwayUs?: bigint;
    readonly slotState?: string;
    readonly backlogBytes?: bigint;
    readonly lastError?: string;
  };
  /** The partition groups that it declares, from the next attach on; default: p0. */
  groups?: readonly string[];
  /** Those whose archivers say nothing. */
  silent?: readonly string[];
};

type Stream = MessageStream<CoordinatorMessage, AgentMessage>;

export class FakeAgent implements AsyncDisposable {
  readonly options: FakeAgentOptions;
  /** Every StartTask that came. */
  readonly started: StartTask[] = [];
  /** Reasons of every CancelTask that came. */
  readonly cancelled: string[] = [];
  /** Slots that were ordered to be kept (their position) or dropped (0): instance and slot. */
  readonly slotOrders: KeptSlot[] = [];
  /** Limits that were ordered of running tasks. */
  readonly limitOrders: LimitTask[] = [];
  welcome: Welcome | undefined;
  refusal: HoldfastError | undefined;
  readonly #stop = new AbortController();
  readonly #tasks = new Map<bigint, StartTask>();
  readonly #archives = new Map<bigint, FakeArchive>();
  /** The newest of each round and partition group, also when it has ended. */
  readonly #newest = new Map<string, FakeArchive>();
  readonly #client: ServiceClient<typeof AgentService>;
  #stream: Stream | undefined;
  /** Kept, and said again on every new stream: one that was written to a dying stream is lost. */
  readonly #results = new Map<bigint, TaskResult>();
  #outbox: TaskResult[] = [];
  #isDown = false;
  readonly #running: Promise<void>;
  readonly systemIdentifier: bigint;

  constructor(options: FakeAgentOptions) {
    this.options = options;
    this.systemIdentifier = options.systemIdentifier ?? systemOf(options.tenant);
    this.#client = makeClient(AgentService, options.address);
    this.#running = this.#stayAttached();
  }

  /** Closes the stream and stays away until `comeBack`. */
  goAway(): void {
    this.#isDown = true;
    this.#stream?.cancel();
  }

  comeBack(): void {
    this.#isDown = false;
  }

  /** As a restart does: the tasks are gone, their files stay. */
  async forget(): Promise<void> {
    for (const archive of this.#archives.values()) await archive.stop();
    this.#archives.clear();
    this.#tasks.clear();
    this.#results.clear();
    this.#outbox = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the fake agent ends'));
    this.#stream?.cancel();
    await this.#running;
    await this.forget();
    this.#client.close();
  }

  async #stayAttached(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      if (!this.#isDown) {
        try {
          await this.#attachOnce();
        } catch (error) {
          if (error instanceof HoldfastError) this.refusal = error;
        }
      }
      await sleep(50);
    }
  }

  async #attachOnce(): Promise<void> {
    const { signal } = this.#stop;
    const stream = this.#client.attach({ signal });
    this.#stream = stream;
    await this.#send(this.#hello());
    const beat = this.#beat(stream);
    try {
      for await (const message of stream.messages) await this.#receive(message);
    } finally {
      this.#stream = undefined;
      await beat;
    }
  }

  #hello(): AgentMessage['kind'] {
    const { tenant, token } = this.options;
    return create(AgentMessageSchema, {
      kind: {
        case: 'hello',
        value: {
          agentUuid: `agent-of-${tenant}`,
          ip: '127.0.0.1',
          port: 2889,
          zone: 'zone1',
          version: '0.0.0',
          instances: this.#groups().map((partitionGroup) => ({
            tenant,
            partitionGroup,
            instance: instanceOf(this.options, partitionGroup),
          })),
          runningTasks: [...this.#tasks.values(), ...this.#results.values()].map(({ taskId, attempt }) => ({
            taskId,
            attempt,
          })),
          token: token ?? '',
        },
      },
    }).kind;
  }

  #groups(): readonly string[] {
    return this.options.groups ?? [this.options.partitionGroup ?? 'p0'];
  }

  /** Each partition group is a system of its own. */
  #systemOf(partitionGroup: string): bigint {
    return partitionGroup === 'p0' ? this.systemIdentifier : this.systemIdentifier + systemOf(partitionGroup);
  }

  async #beat(stream: Stream): Promise<void> {
    while (this.#stream === stream && !this.#stop.signal.aborted) {
      try {
        await this.#send(
          heartbeat(this.options, this.#groups(), (group) => this.#systemOf(group), this.slotOrders),
        );
        for (const [taskId, archive] of this.#archives) await this.#report(taskId, archive);
        for (const value of this.#outbox.splice(0)) await this.#send({ case: 'taskResult', value });
      } catch {
        return; // the stream broke: its reader says so
      }
      await sleep(50);
    }
  }

  async #send(kind: AgentMessage['kind']): Promise<void> {
    await this.#stream?.write(create(AgentMessageSchema, { kind }), this.#stop.signal);
  }

  async #receive(message: CoordinatorMessage): Promise<void> {
    switch (message.kind.case) {
      case 'welcome':
        this.welcome = message.kind.value;
        this.#outbox = [...this.#results.values()];
        return;
      case 'startTask':
        await this.#start(message.kind.value);
        return;
      case 'cancelTask':
        this.cancelled.push(message.kind.value.reason);
        await this.#cancel(message.kind.value.taskId, message.kind.value.drain);
        return;
      case 'flushLog':
        await this.#archives
          .get(message.kind.value.taskId)
          ?.flush(toLsn(message.kind.value.lsn), message.kind.value.seal);
        return;
      case 'limitTask':
        this.limitOrders.push(message.kind.value);
        return;
      case 'keepSlots':
        this.slotOrders.push(...message.kind.value.slots);
        return;
      default:
    }
  }

  async #start(task: StartTask): Promise<void> {
    this.started.push(task);
    this.#results.delete(task.taskId);
    this.#tasks.set(task.taskId, task);
    switch (task.kind.case) {
      case 'check':
        this.#end(task, {
          case: 'check',
          value: {
            $typeName: 'holdfast.v1.CheckResult',
            items: [
              {
                $typeName: 'holdfast.v1.CheckItem',
                name: this.options.failedCheck ?? 'wal_level',
                passed: this.options.failedCheck === undefined,
                found: 'found',
                wanted: 'wanted',
                fix: 'ALTER SYSTEM SET wal_level = replica',
              },
            ],
          },
        });
        return;
      case 'archive':
        await this.#archive(task.taskId, task.kind.value);
        return;
      case 'backup':
        void this.#backup(task, task.kind.value);
        return;
      case 'validate':
        void this.#validate(task, task.kind.value);
        return;
      default:
    }
  }

  async #archive(taskId: bigint, task: ArchiveTask): Promise<void> {
    const place = `${task.round} ${task.partitionGroup}`;
    const archive = await FakeArchive.begin({
      task,
      systemIdentifier: this.#systemOf(task.partitionGroup),
      seals: this.options.seals === true,
      before: this.#newest.get(place),
    });
    this.#archives.set(taskId, archive);
    this.#newest.set(place, archive);
  }

  async #report(taskId: bigint, archive: FakeArchive): Promise<void> {
    if (this.options.silent?.includes(archive.task.partitionGroup) === true) return;
    archive.checkpointUs = nowUs();
    const { attempt } = this.#tasks.get(taskId) ?? { attempt: 0 };
    await this.#send({
      case: 'taskProgress',
      value: {
        $typeName: 'holdfast.v1.TaskProgress',
        taskId,
        attempt,
        timeUs: nowUs(),
        kind: {
          case: 'archive',
          value: { ...archive.progress(), ...this.options.archiveProgress },
        },
      } satisfies TaskProgress,
    });
  }

  async #backup(task: StartTask, backup: BackupTask): Promise<void> {
    await this.options.holdBackup;
    if (this.#tasks.get(task.taskId)?.attempt !== task.attempt) return; // cancelled meanwhile
    try {
      const made = await (this.options.copy ?? fakeCopy)(backup, (value) =>
        this.#tell(task, { case: 'backup', value }),
      );
      const systemIdentifier =
        made.systemIdentifier === 0n ? this.#systemOf(backup.partitionGroup) : made.systemIdentifier;
      const value = create(BackupResultSchema, { backup: { ...made, systemIdentifier } });
      if (this.#tasks.get(task.taskId)?.attempt === task.attempt) this.#end(task, { case: 'backup', value });
    } catch (error) {
      if (this.#tasks.get(task.taskId)?.attempt === task.attempt)
        this.#end(task, { case: 'error', value: toErrorDetail(toHoldfastError(error)) });
    }
  }

  #tell({ taskId, attempt }: StartTask, kind: TaskProgress['kind']): void {
    if (this.#tasks.get(taskId)?.attempt !== attempt) return;
    const progress = { taskId, attempt, timeUs: nowUs(), kind } as const;
    this.#send({ case: 'taskProgress', value: { $typeName: 'holdfast.v1.TaskProgress', ...progress } }).catch(
      () => undefined, // the stream broke: its reader says so
    );
  }

  async #validate(task: StartTask, validation: ValidateTask): Promise<void> {
    const right = async () =>
      create(ValidateResultSchema, { beginUs: nowUs(), endUs: nowUs(), bytes: 1000n });
    const value = await (this.options.validate ?? right)(validation, (progress) =>
      this.#tell(task, { case: 'validate', value: progress }),
    );
    if (this.#tasks.get(task.taskId)?.attempt === task.attempt) this.#end(task, { case: 'validate', value });
  }

  async #cancel(taskId: bigint, drain: boolean): Promise<void> {
    const task = this.#tasks.get(taskId);
    if (task === undefined) return;
    const archive = this.#archives.get(taskId);
    if (archive !== undefined) {
      this.#archives.delete(taskId);
      await archive.stop();
    }
    if (archive !== undefined && drain) {
      this.#end(task, {
        case: 'archive',
        value: {
          $typeName: 'holdfast.v1.ArchiveResult',
          final: archive.progress(),
          interruptedReason: '',
        },
      });
    } else {
      this.#end(task, { case: 'error', value: toErrorDetail(new HoldfastError('CANCELLED', 'cancelled')) });
    }
  }

  /** Fails a running task as the agent's own error would. */
  async fail(taskId: bigint, error: HoldfastError): Promise<void> {
    const task = this.#tasks.get(taskId);
    if (task !== undefined) this.#end(task, { case: 'error', value: toErrorDetail(error) });
    const archive = this.#archives.get(taskId);
    this.#archives.delete(taskId);
    await archive?.stop();
  }

  #end(task: StartTask, kind: TaskResult['kind']): void {
    this.#tasks.delete(task.taskId);
    const value: TaskResult = {
      $typeName: 'holdfast.v1.TaskResult',
      taskId: task.taskId,
      attempt: task.attempt,
      kind,
    };
    this.#results.set(task.taskId, value);
    this.#outbox.push(value);
  }
}

export async function fakeCopy(task: BackupTask): Promise<PartitionGroupBackup> {
  return create(PartitionGroupBackupSchema, {
    previousSetId: task.previousSetId,
    sourceSetId: task.sourceSetId,
    partitionGroup: task.partitionGroup,
    serverVersion: '17.0',
    postgresMajor: 17,
    blockSizeBytes: 8192,
    segmentSizeBytes: SEGMENT_BYTES,
    pageChecksumVersion: 1,
    start: { timeline: 1, lsn: BACKUP_START },
    stop: { timeline: 1, lsn: BACKUP_STOP },
    startUs: nowUs(),
    stopUs: nowUs(),
    newestPageLsn: BACKUP_START,
    fileCount: 3n,
    macroblockCount: 4n,
    inputBytes: 1000n,
    outputBytes: 100n,
    files: await describingFiles(task),
    taskId: task.metaTaskId,
  });
}

/** The files that a set's commit point names; there is nothing in them. */
async function describingFiles(task: BackupTask): Promise<FileDigest[]> {
  const root = {
    clusterName: task.destination?.clusterName ?? '',
    clusterId: task.destination?.clusterId ?? 0n,
  };
  const key = { tenantId: task.tenantId, fullSetId: task.fullSetId, setId: task.backupSetId };
  await using medium = await openMedium(task.destination?.uri ?? '');
  const keys = [
    tree.metaFile(root, key, task.metaTaskId),
    tree.metaIndexFile(root, key, task.metaTaskId),
    tree.macroBlockIndex(root, key, task.partitionGroup, task.retry),
  ];
  for (const file of keys) await medium.createExclusive(file, Buffer.from('fake'));
  const directory = `${tree.backupSetDirectory(root, key.tenantId, key.fullSetId)}/`;
  return keys.map((file) =>
    create(FileDigestSchema, {
      path: file.slice(directory.length),
      sizeBytes: 4n,
      sha256: createHash('sha256').update('fake').digest(),
    }),
  );
}

function systemOf(tenant: string): bigint {
  return FIRST_SYSTEM + createHash('sha256').update(tenant).digest().readBigUInt64BE() / 65_536n;
}

function nowUs(): bigint {
  return BigInt(Date.now()) * 1000n;
}

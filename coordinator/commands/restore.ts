/** RESTORE, its PREVIEW and CANCEL RESTORE. */
import { create } from '@bufbuild/protobuf';
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import { formatLsn } from '../../foundation/lsn.ts';
import { RestoreTargetSchema, RestoreTaskSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import { unlockWithLog } from '../../storage-layout/encryption/unlock.ts';
import { checkName } from '../../storage-layout/tree.ts';
import { findRunningJob, insertJob, insertTask, requestCancel } from '../catalog/jobs.ts';
import { restoreProgress } from '../catalog/progress.ts';
import { listServers } from '../catalog/servers.ts';
import { insertRestore } from '../catalog/sets.ts';
import {
  findPool,
  findTenant,
  findUnit,
  insertTenant,
  joinGroup,
  nextTenantId,
  type ResourceUnitRow,
} from '../catalog/tenants.ts';
import { type CoordinatorContext, type Transaction, write } from '../context.ts';
import { sealDataKeys, sessionSecrets } from '../encryption/keys.ts';
import { messageToJson } from '../jobs/task-results.ts';
import { parameterNumber } from '../parameters/values.ts';
import type { ResultColumn, SqlValue } from '../sql/results.ts';
import type { SqlSession } from '../sql/session.ts';
import type { CurrentStatement, RestoreStatement } from '../sql/statements.ts';
import { requireDestination } from './archive.ts';
import { type Events, notice, progressLine, table, waitForJob } from './command.ts';
import { parseRestoreOptions, type RestoreOptions } from './restore-options.ts';
import { planRestore, type RestorePlan } from './restore-plan.ts';

type Of<Kind extends CurrentStatement['kind']> = Extract<CurrentStatement, { readonly kind: Kind }>;
type Preview = { readonly columns: readonly ResultColumn[]; readonly rows: readonly (readonly SqlValue[])[] };

/** Phases and retries included; a restore of terabytes may take days. */
const TASK_LIMIT_US = 7n * 86_400_000_000n;

export async function* restore(
  context: CoordinatorContext,
  statement: RestoreStatement,
  session: SqlSession,
  signal: AbortSignal,
): Events {
  if (statement.standbyOf !== undefined)
    throw new HoldfastError('NOT_SUPPORTED', 'AS STANDBY OF is not supported yet');
  if (statement.at?.includes(',') === true)
    throw new HoldfastError('NOT_SUPPORTED', 'separate destinations for data and log are not supported yet');
  checkName('partition group', statement.newTenant);
  const options = parseRestoreOptions(statement.options);
  await refuseTakenName(context.catalog, statement.newTenant);
  const placement = await placementOf(context, options);
  const from =
    statement.at === undefined
      ? await requireDestination(context)
      : { uri: statement.at, display: context.destinations.display(statement.at) };
  const plan = await planRestore(context, statement, options, from, signal);
  const preview = previewOf(plan);
  session.restorePreview = preview;
  if (statement.preview) {
    yield* table(preview.columns, preview.rows);
    return;
  }
  const { set, round } = plan.chosen;
  const { medium, root, tenantId } = plan.source;
  const key = { tenantId, fullSetId: set.fullSetId, setId: set.backupSetId };
  const keys = await unlockWithLog(medium, root, key, round, await sessionSecrets(context, session), signal);
  const concurrency = options.concurrency ?? (await parameterNumber(context.catalog, 'restore_concurrency'));
  const jobId = await createJob(context, statement, options, plan, keys, { ...placement, concurrency });
  yield notice(
    `restore of tenant "${statement.newTenant}" from backup set ${plan.chosen.set.backupSetId} until ${plan.targetText} started: job ${jobId}`,
    { hint: 'SELECT * FROM CDB_OB_RESTORE_PROGRESS;' },
  );
  if (!statement.wait) return;
  const line = async () => progressLine(jobId, await restoreProgress(context.catalog, jobId));
  yield* waitForJob(context, jobId, line, signal);
}

async function refuseTakenName(db: CoordinatorContext['catalog'] | Transaction, name: string): Promise<void> {
  const running = await findRunningJob(db, 'RESTORE', name);
  if (running !== undefined) {
    throw new HoldfastError('RESTORE_IN_PROGRESS', `tenant "${name}" is being restored already`, {
      detail: `Job ${running.job_id} is ${running.state}.`,
      hint: 'SELECT * FROM CDB_OB_RESTORE_PROGRESS;',
    });
  }
  if ((await findTenant(db, name)) !== undefined) {
    throw new HoldfastError('TENANT_EXIST', `tenant "${name}" exists already`, {
      detail: 'A restore makes a new tenant; it never overwrites one.',
      hint: 'Choose another name.',
    });
  }
}

type Placement = { readonly zones: readonly string[]; readonly unit: ResourceUnitRow | undefined };

/** The zones of the pools, and what the copy may use. Throws ENTRY_NOT_EXIST, INVALID_ARGUMENT. */
async function placementOf(context: CoordinatorContext, options: RestoreOptions): Promise<Placement> {
  const zones: string[] = [];
  let unit: ResourceUnitRow | undefined;
  for (const name of options.pools) {
    const pool = await findPool(context.catalog, name);
    if (pool === undefined)
      throw new HoldfastError('ENTRY_NOT_EXIST', `there is no resource pool "${name}"`, {
        hint: 'SELECT * FROM DBA_OB_RESOURCE_POOLS;',
      });
    zones.push(...pool.zone_list);
    unit ??= await findUnit(context.catalog, pool.unit);
  }
  const wanted = options.zones.length === 0 ? zones : zones.filter((zone) => options.zones.includes(zone));
  if (wanted.length === 0)
    throw new HoldfastError('INVALID_ARGUMENT', `zone ${options.zones.join(', ')} is none of the pool's`, {
      detail: `Zones of the pool: ${zones.join(', ')}.`,
    });
  const servers = await listServers(context.catalog);
  if (!servers.some((server) => wanted.includes(server.zone)))
    throw new HoldfastError('AGENT_UNREACHABLE', `no agent of zone ${wanted.join(', ')} has ever attached`, {
      hint: 'SELECT zone, status FROM DBA_OB_SERVERS;',
    });
  return { zones: wanted, unit };
}

async function createJob(
  context: CoordinatorContext,
  statement: RestoreStatement,
  options: RestoreOptions,
  plan: RestorePlan,
  keys: readonly DataKey[],
  placement: Placement & { readonly concurrency: number },
): Promise<bigint> {
  const { source, chosen } = plan;
  return await write(context, async (tx) => {
    await refuseTakenName(tx, statement.newTenant);
    const tenantId = await nextTenantId(tx, 0n);
    const jobId = await insertJob(tx, {
      kind: 'RESTORE',
      tenantId,
      tenantName: statement.newTenant,
      state: 'CREATE_TENANT',
      spec: {},
      description: statement.description,
      nowUs: tx.nowUs,
    });
    await insertTenant(tx, {
      tenantId,
      name: statement.newTenant,
      status: 'RESTORING',
      nowUs: tx.nowUs,
      restoredByJob: jobId,
    });
    await insertRestore(tx, {
      jobId,
      tenantId,
      tenantName: statement.newTenant,
      sourceTenantId: source.tenantId,
      sourceTenantName: source.tenantName,
      sourceClusterName: source.root.clusterName,
      sourceClusterId: source.root.clusterId,
      setId: chosen.set.backupSetId,
      round: chosen.round,
      displaySource: source.display,
      target: plan.targetText,
      targetUs: plan.target.kind === 'time' ? plan.target.timeUs : 0n,
      pool: options.pools.join(','),
    });
    const groups = chosen.window.groups.map((group) => group.partitionGroup);
    for (const group of groups) {
      const instance = groups.length === 1 ? statement.newTenant : `${statement.newTenant}.${group}`;
      await joinGroup(tx, tenantId, group, tx.nowUs);
      await insertTask(tx, {
        jobId,
        kind: 'RESTORE',
        tenantId,
        partitionGroup: group,
        spec: {
          task: taskOf(statement, options, plan, { tenantId, group, instance, ...placement }),
          destination: context.secrets.encrypt(source.uri),
          zones: placement.zones,
          keys: sealDataKeys(context.secrets, keys),
        },
        deadlineUs: tx.nowUs + TASK_LIMIT_US,
        nowUs: tx.nowUs,
      });
    }
    await tx.event({
      module: 'restore',
      event: 'restore_started',
      tenantId,
      tenantName: statement.newTenant,
      message: `restore of tenant "${statement.newTenant}" from "${source.tenantName}", backup set ${chosen.set.backupSetId}, until ${plan.targetText} has started`,
      facts: { job_id: jobId, backup_set_id: chosen.set.backupSetId, round: chosen.round },
    });
    return jobId;
  });
}

/** The task without the URI, which is kept encrypted beside it. */
function taskOf(
  statement: RestoreStatement,
  options: RestoreOptions,
  plan: RestorePlan,
  place: Placement & {
    readonly tenantId: bigint;
    readonly group: string;
    readonly instance: string;
    readonly concurrency: number;
  },
): object {
  const { source, chosen } = plan;
  return messageToJson(
    RestoreTaskSchema,
    create(RestoreTaskSchema, {
      source: { uri: '', ...source.root },
      sourceTenantId: source.tenantId,
      backupSetId: chosen.set.backupSetId,
      fullSetId: chosen.set.fullSetId,
      round: chosen.round,
      partitionGroup: place.group,
      newTenantId: place.tenantId,
      newTenant: statement.newTenant,
      newInstance: place.instance,
      target: targetOf(plan),
      tablespaceMap: options.tablespaceMap,
      concurrency: place.concurrency,
      unit: {
        maxMemoryBytes: place.unit?.max_memory_bytes ?? 0n,
        maxSessionNum: place.unit?.max_session_num ?? 0,
        maxCpu: place.unit?.max_cpu ?? 0,
      },
    }),
  );
}

function targetOf(plan: RestorePlan) {
  const { target } = plan;
  const common = { exclusive: plan.exclusive, timeline: target.timeline ?? 0 };
  switch (target.kind) {
    case 'endOfLog':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'endOfLog', value: true } });
    case 'immediate':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'immediate', value: true } });
    case 'time':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'timeUs', value: target.timeUs } });
    case 'lsn':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'lsn', value: target.lsn } });
    case 'xid':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'xid', value: target.xid } });
    case 'name':
      return create(RestoreTargetSchema, { ...common, kind: { case: 'name', value: target.name } });
    default:
      return assertNever(target);
  }
}

const PREVIEW_COLUMNS: readonly ResultColumn[] = [
  { name: 'backup_type', type: 'text' },
  { name: 'backup_id', type: 'int8' },
  { name: 'copy_id', type: 'int8' },
  { name: 'backup_dest', type: 'text' },
  { name: 'file_status', type: 'text' },
  { name: 'partition_group', type: 'text' },
  { name: 'begin_lsn', type: 'text' },
  { name: 'end_lsn', type: 'text' },
  { name: 'restore_target', type: 'text' },
  { name: 'window_from', type: 'timestamptz' },
  { name: 'window_until', type: 'timestamptz' },
];

/** What the restore would read: the set, and the log of each partition group. */
function previewOf(plan: RestorePlan): Preview {
  const { source, chosen } = plan;
  const { window } = chosen;
  const row = (type: string, id: bigint, group: string, begin: bigint, end: bigint): readonly SqlValue[] => [
    type,
    id,
    0n,
    source.display,
    'AVAILABLE',
    group,
    formatLsn(begin),
    formatLsn(end),
    plan.targetText,
    { timestampUs: window.fromUs },
    { timestampUs: window.untilUs },
  ];
  const rows = chosen.set.partitionGroups.flatMap((backup) => {
    const log = window.groups.find((group) => group.partitionGroup === backup.partitionGroup);
    if (log === undefined) return []; // no member at the target
    const start = backup.start?.lsn ?? 0n;
    return [
      row('BACKUPSET', chosen.set.backupSetId, backup.partitionGroup, start, backup.stop?.lsn ?? 0n),
      row('LOG ARCHIVE ROUND', chosen.round, backup.partitionGroup, start, log.untilLsn),
    ];
  });
  return { columns: PREVIEW_COLUMNS, rows };
}

export async function* showRestorePreview(session: SqlSession): Events {
  const preview = session.restorePreview as Preview | undefined; // only this file sets it
  if (preview === undefined)
    throw new HoldfastError('ENTRY_NOT_EXIST', 'nothing was previewed in this session', {
      hint: 'ALTER SYSTEM RESTORE … PREVIEW; shows what a restore would read.',
    });
  yield* table(preview.columns, preview.rows);
}

export async function* cancelRestore(context: CoordinatorContext, statement: Of<'cancelRestore'>): Events {
  const job = await findRunningJob(context.catalog, 'RESTORE', statement.tenant);
  if (job === undefined)
    throw new HoldfastError('ENTRY_NOT_EXIST', `no restore of tenant "${statement.tenant}" is running`, {
      hint: 'SELECT * FROM CDB_OB_RESTORE_PROGRESS;',
    });
  await write(context, (tx) => requestCancel(tx, job.job_id));
  yield notice(`cancelling job ${job.job_id}`);
}

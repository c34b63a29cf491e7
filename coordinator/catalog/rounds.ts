/** Archive rounds and their partition groups as rows. */
import { formatLsn } from '../../foundation/lsn.ts';
import type { RoundStateName } from '../archive/round-states.ts';
import type { Queryable } from './catalog.ts';
import { insertRow, updateRows } from './rows.ts';

export type Round = {
  readonly tenant_id: bigint;
  readonly round: bigint;
  readonly tenant_name: string;
  readonly job_id: bigint;
  readonly state: RoundStateName;
  /** Encrypted URI. */
  readonly destination: string;
  readonly display_destination: string;
  readonly start_us: bigint;
  readonly checkpoint_us: bigint;
  readonly end_us: bigint;
  readonly reason: string;
  readonly stop_deadline_us: bigint;
  readonly end_owed: boolean;
  readonly end_state: string;
  readonly last_error: string;
  /** As the views name it. */
  readonly encryption_mode: string;
};
export type RoundGroup = {
  readonly tenant_id: bigint;
  readonly round: bigint;
  readonly partition_group: string;
  readonly task_id: bigint;
  readonly epoch: bigint;
  readonly state: string;
  readonly server_id: bigint;
  readonly instance: string;
  readonly system_identifier: string;
  readonly segment_size_bytes: bigint;
  readonly postgres_major: number;
  readonly start_timeline: bigint;
  /** `X/X`; null: not reported yet. */
  readonly start_lsn: string | null;
  readonly start_us: bigint;
  readonly checkpoint_timeline: bigint;
  readonly checkpoint_lsn: string | null;
  readonly checkpoint_us: bigint;
  readonly earlier_input_bytes: bigint;
  readonly earlier_output_bytes: bigint;
  readonly input_bytes: bigint;
  readonly output_bytes: bigint;
  readonly last_error: string;
  /** What the archiver told last, and when. */
  readonly backlog_bytes: bigint;
  readonly slot_state: string;
  readonly slot_retained_bytes: bigint;
  readonly wal_free_bytes: bigint;
  readonly updated_us: bigint;
  /** 0: it is there, as far as is known. */
  readonly destination_away_us: bigint;
  /** Its agent is lost, and log may be given up: told already. */
  readonly overdue: boolean;
  /** 0: this group's log has no hole; the other hole_ columns say nothing then. */
  readonly hole_timeline: bigint;
  readonly hole_begin: string | null;
  /** Null: where the log goes on is not known. */
  readonly hole_end: string | null;
  readonly hole_begin_us: bigint;
  readonly hole_end_us: bigint;
  readonly hole_reason: string;
  /** False: it joined the running round, and its own start is not at the destination yet. */
  readonly begun: boolean;
  /** 0: its log is archived as long as the round goes on. */
  readonly left_us: bigint;
  readonly lineage_timeline: bigint;
  readonly waiting_for: string;
};

const ROUND_COLUMNS = `tenant_id, round, tenant_name, job_id, state, destination, display_destination, start_us,
  checkpoint_us, end_us, reason, stop_deadline_us, end_owed, end_state, last_error, encryption_mode`;
const GROUP_COLUMNS = `tenant_id, round, partition_group, task_id, epoch, state, server_id, instance, system_identifier,
  segment_size_bytes, postgres_major, start_timeline, start_lsn::text AS start_lsn, start_us, checkpoint_timeline,
  checkpoint_lsn::text AS checkpoint_lsn, checkpoint_us, earlier_input_bytes, earlier_output_bytes, input_bytes,
  output_bytes, last_error, backlog_bytes, slot_state, slot_retained_bytes, wal_free_bytes, updated_us,
  destination_away_us, overdue, hole_timeline, hole_begin::text AS hole_begin, hole_end::text AS hole_end, hole_begin_us,
  hole_end_us, hole_reason, begun, left_us, lineage_timeline, waiting_for`;

export async function insertRound(
  tx: Queryable,
  round: {
    readonly tenantId: bigint;
    readonly round: bigint;
    readonly tenantName: string;
    readonly jobId: bigint;
    readonly destination: string;
    readonly displayDestination: string;
    /** Default NONE. */
    readonly encryptionMode?: string;
    readonly nowUs: bigint;
  },
): Promise<void> {
  await insertRow(
    tx,
    'rounds',
    {
      tenant_id: round.tenantId,
      round: round.round,
      tenant_name: round.tenantName,
      job_id: round.jobId,
      state: 'BEGINNING',
      destination: round.destination,
      display_destination: round.displayDestination,
      encryption_mode: round.encryptionMode,
      created_us: round.nowUs,
    },
    'round',
  );
}

export async function insertRoundGroup(
  tx: Queryable,
  group: {
    readonly tenantId: bigint;
    readonly round: bigint;
    readonly partitionGroup: string;
    readonly taskId: bigint;
    /** It joins a round that is DOING: it has no start at the destination yet. */
    readonly late?: boolean;
  },
): Promise<void> {
  await insertRow(
    tx,
    'round_groups',
    {
      tenant_id: group.tenantId,
      round: group.round,
      partition_group: group.partitionGroup,
      task_id: group.taskId,
      begun: group.late !== true,
    },
    'round',
  );
}

/** A group that left the round joins it again, or one that could not begin begins anew: by another task. */
export async function renewRoundGroup(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  change: { readonly taskId: bigint; readonly begun: boolean },
): Promise<void> {
  await updateRows(tx, 'round_groups', keyOf(group), {
    task_id: change.taskId,
    begun: change.begun,
    left_us: 0n,
    state: 'BEGINNING',
    waiting_for: '',
  });
}

/** The group's own start in the running round is at the destination. */
export async function setRoundGroupBegun(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
): Promise<void> {
  await updateRows(tx, 'round_groups', keyOf(group), { begun: true });
}

export async function setRoundGroupLeft(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  leftUs: bigint,
): Promise<void> {
  await updateRows(tx, 'round_groups', keyOf(group), {
    left_us: leftUs,
    state: 'STOP',
    waiting_for: '',
    last_error: '',
    backlog_bytes: 0n,
  });
}

function keyOf(group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>) {
  return { tenant_id: group.tenant_id, round: group.round, partition_group: group.partition_group };
}

/** The tenant's newest round. */
export async function findLastRound(db: Queryable, tenantId: bigint): Promise<Round | undefined> {
  const rows = await db.query<Round>(
    `SELECT ${ROUND_COLUMNS} FROM holdfast.rounds WHERE tenant_id = $1 ORDER BY round DESC LIMIT 1`,
    [tenantId],
  );
  return rows[0];
}

/** The tenant's rounds, newest first, down to the newest that had begun; all of them when none had. */
export async function listRoundsSinceBegun(db: Queryable, tenantId: bigint): Promise<readonly Round[]> {
  return await db.query<Round>(
    `SELECT ${ROUND_COLUMNS} FROM holdfast.rounds WHERE tenant_id = $1
     AND round >= coalesce((SELECT max(round) FROM holdfast.rounds WHERE tenant_id = $1 AND start_us <> 0), 0)
     ORDER BY round DESC`,
    [tenantId],
  );
}

export async function findRound(db: Queryable, tenantId: bigint, round: bigint): Promise<Round | undefined> {
  const rows = await db.query<Round>(
    `SELECT ${ROUND_COLUMNS} FROM holdfast.rounds WHERE tenant_id = $1 AND round = $2`,
    [tenantId, round],
  );
  return rows[0];
}

/** Rounds that still need work: running ones, and those whose round_end is owed. */
export async function listLiveRounds(db: Queryable): Promise<readonly Round[]> {
  return await db.query<Round>(
    `SELECT ${ROUND_COLUMNS} FROM holdfast.rounds
     WHERE state IN ('BEGINNING', 'DOING', 'STOPPING') OR end_owed ORDER BY tenant_id, round`,
  );
}

/** Tenants whose newest round is INTERRUPTED. */
export async function listInterruptedRounds(db: Queryable): Promise<readonly Round[]> {
  return await db.query<Round>(
    `SELECT ${ROUND_COLUMNS} FROM holdfast.rounds r WHERE state = 'INTERRUPTED'
     AND NOT EXISTS (SELECT FROM holdfast.rounds n WHERE n.tenant_id = r.tenant_id AND n.round > r.round)`,
  );
}

export async function listRoundGroups(
  db: Queryable,
  tenantId: bigint,
  round: bigint,
): Promise<readonly RoundGroup[]> {
  return await db.query<RoundGroup>(
    `SELECT ${GROUP_COLUMNS} FROM holdfast.round_groups WHERE tenant_id = $1 AND round = $2 ORDER BY partition_group`,
    [tenantId, round],
  );
}

export async function findRoundGroupOfTask(db: Queryable, taskId: bigint): Promise<RoundGroup | undefined> {
  const rows = await db.query<RoundGroup>(
    `SELECT ${GROUP_COLUMNS} FROM holdfast.round_groups WHERE task_id = $1`,
    [taskId],
  );
  return rows[0];
}

/** Moves a round. False, and nothing done, when it is no longer in `from`. */
export async function moveRound(
  tx: Queryable,
  round: Pick<Round, 'tenant_id' | 'round' | 'state'>,
  to: RoundStateName,
  change: {
    readonly startUs?: bigint;
    readonly endUs?: bigint;
    readonly reason?: string;
    readonly stopDeadlineUs?: bigint;
    readonly endOwed?: boolean;
    readonly endState?: string;
  } = {},
): Promise<boolean> {
  const changed = await updateRows(
    tx,
    'rounds',
    { tenant_id: round.tenant_id, round: round.round, state: round.state },
    {
      state: to,
      start_us: change.startUs,
      end_us: change.endUs,
      reason: change.reason,
      stop_deadline_us: change.stopDeadlineUs,
      end_owed: change.endOwed,
      end_state: change.endState,
    },
  );
  return changed > 0;
}

export async function updateRound(
  tx: Queryable,
  round: Pick<Round, 'tenant_id' | 'round'>,
  change: { readonly endOwed?: boolean; readonly lastError?: string },
): Promise<void> {
  await updateRows(
    tx,
    'rounds',
    { tenant_id: round.tenant_id, round: round.round },
    { end_owed: change.endOwed, last_error: change.lastError },
  );
}

/** A new archiver takes a group over: its epoch, and the bytes of the one before. */
export async function beginGroupAttempt(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  attempt: { readonly epoch: bigint; readonly serverId: bigint; readonly instance: string },
): Promise<void> {
  await tx.query(
    `UPDATE holdfast.round_groups SET epoch = $4, server_id = $5, instance = $6,
       earlier_input_bytes = earlier_input_bytes + input_bytes,
       earlier_output_bytes = earlier_output_bytes + output_bytes, input_bytes = 0, output_bytes = 0, backlog_bytes = 0
     WHERE tenant_id = $1 AND round = $2 AND partition_group = $3`,
    [group.tenant_id, group.round, group.partition_group, attempt.epoch, attempt.serverId, attempt.instance],
  );
}

export type GroupProgress = {
  readonly state: string;
  readonly systemIdentifier: bigint;
  readonly segmentSizeBytes: number;
  readonly postgresMajor: number;
  readonly start: { readonly timeline: number; readonly lsn: bigint } | undefined;
  readonly startUs: bigint;
  readonly checkpoint: { readonly timeline: number; readonly lsn: bigint } | undefined;
  readonly checkpointUs: bigint;
  readonly serverLsn: bigint;
  readonly serverUs: bigint;
  readonly inputBytes: bigint;
  readonly outputBytes: bigint;
  readonly backlogBytes: bigint;
  readonly slotState: string;
  readonly slotRetainedBytes: bigint;
  readonly walFreeBytes: bigint;
  readonly waitingFor: string;
  readonly lastError: string;
  /** 0: the destination is there; undefined: not known, as before. */
  readonly destinationAwayUs: bigint | undefined;
};

/**
 * What an archiver reported. The start is kept once it is known (R5), the checkpoint only grows; `lineage_us` is the
 * checkpoint's time on the newest timeline alone. The round's checkpoint is the earliest of the groups that are in it: those
 * that left, and those that join and have not begun, hold nothing up.
 */
export async function recordGroupProgress(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  progress: GroupProgress,
  nowUs: bigint,
): Promise<void> {
  await tx.query(
    `UPDATE holdfast.round_groups SET
       state = $4,
       system_identifier = CASE WHEN system_identifier = 0 THEN $5::numeric ELSE system_identifier END,
       segment_size_bytes = CASE WHEN segment_size_bytes = 0 THEN $6::bigint ELSE segment_size_bytes END,
       postgres_major = CASE WHEN $7::integer > 0 THEN $7::integer ELSE postgres_major END,
       start_timeline = CASE WHEN start_lsn IS NULL THEN $8::bigint ELSE start_timeline END,
       start_us = CASE WHEN start_us = 0 THEN $10::bigint ELSE start_us END,
       start_lsn = coalesce(start_lsn, $9::pg_lsn),
       checkpoint_lsn = CASE WHEN $11::bigint > checkpoint_timeline THEN $12::pg_lsn
         WHEN $11::bigint < checkpoint_timeline THEN checkpoint_lsn ELSE greatest(checkpoint_lsn, $12::pg_lsn) END,
       checkpoint_timeline = greatest(checkpoint_timeline, $11::bigint),
       checkpoint_us = greatest(checkpoint_us, $13::bigint),
       lineage_us = CASE WHEN $11::bigint > checkpoint_timeline THEN $13::bigint
         WHEN $11::bigint < checkpoint_timeline THEN lineage_us ELSE greatest(lineage_us, $13::bigint) END,
       forked_us = CASE WHEN checkpoint_timeline > 0 AND $11::bigint > checkpoint_timeline THEN $22 ELSE forked_us END,
       server_lsn = coalesce($14::pg_lsn, server_lsn),
       server_us = greatest(server_us, $15::bigint),
       input_bytes = $16, output_bytes = $17, backlog_bytes = $18, slot_state = $19, waiting_for = $20, last_error = $21,
       updated_us = $22, slot_retained_bytes = $23, wal_free_bytes = $24,
       destination_away_us = coalesce($25::bigint, destination_away_us), overdue = false
     WHERE tenant_id = $1 AND round = $2 AND partition_group = $3`,
    [
      group.tenant_id,
      group.round,
      group.partition_group,
      progress.state,
      String(progress.systemIdentifier),
      progress.segmentSizeBytes,
      progress.postgresMajor,
      progress.start?.timeline ?? 0,
      progress.start === undefined ? null : formatLsn(progress.start.lsn),
      progress.startUs,
      progress.checkpoint?.timeline ?? 0,
      progress.checkpoint === undefined ? null : formatLsn(progress.checkpoint.lsn),
      progress.checkpointUs,
      progress.serverLsn === 0n ? null : formatLsn(progress.serverLsn),
      progress.serverUs,
      progress.inputBytes,
      progress.outputBytes,
      progress.backlogBytes,
      progress.slotState,
      progress.waitingFor,
      progress.lastError,
      nowUs,
      progress.slotRetainedBytes,
      progress.walFreeBytes,
      progress.destinationAwayUs ?? null,
    ],
  );
  await tx.query(
    `UPDATE holdfast.rounds r SET checkpoint_us = greatest(r.checkpoint_us, g.checkpoint_us)
     FROM (SELECT min(checkpoint_us) AS checkpoint_us FROM holdfast.round_groups
       WHERE tenant_id = $1 AND round = $2 AND begun AND left_us = 0) g
     WHERE r.tenant_id = $1 AND r.round = $2`,
    [group.tenant_id, group.round],
  );
}

/** The destination is away since `nowUs`. True when it was there before. */
export async function markAway(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  nowUs: bigint,
): Promise<boolean> {
  const where = {
    tenant_id: group.tenant_id,
    round: group.round,
    partition_group: group.partition_group,
    destination_away_us: 0n,
  };
  return (await updateRows(tx, 'round_groups', where, { destination_away_us: nowUs })) > 0;
}

/** True when it was not marked before. */
export async function markOverdue(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group' | 'updated_us'>,
): Promise<boolean> {
  const where = {
    tenant_id: group.tenant_id,
    round: group.round,
    partition_group: group.partition_group,
    updated_us: group.updated_us,
    overdue: false,
  };
  return (await updateRows(tx, 'round_groups', where, { overdue: true })) > 0;
}

/**
 * Where the group's log has its hole. What the archiver does not say is what the round had: without a beginning all of its
 * log is lost, from its start. Kept once it is known.
 */
export async function recordHole(
  tx: Queryable,
  group: Pick<RoundGroup, 'tenant_id' | 'round' | 'partition_group'>,
  hole: {
    readonly begin?: { readonly timeline: number; readonly lsn: bigint } | undefined;
    readonly end: bigint;
    readonly beginUs: bigint;
    readonly endUs: bigint;
    readonly reason: string;
  },
): Promise<void> {
  await tx.query(
    `UPDATE holdfast.round_groups SET
       hole_timeline = CASE WHEN $4::bigint > 0 THEN $4::bigint ELSE greatest(start_timeline, 1) END,
       hole_begin = coalesce($5::pg_lsn, start_lsn),
       hole_end = $6::pg_lsn,
       hole_begin_us = CASE WHEN $5::pg_lsn IS NULL THEN start_us WHEN $7::bigint > 0 THEN $7::bigint ELSE checkpoint_us END,
       hole_end_us = $8,
       hole_reason = $9
     WHERE tenant_id = $1 AND round = $2 AND partition_group = $3 AND hole_timeline = 0`,
    [
      group.tenant_id,
      group.round,
      group.partition_group,
      hole.begin?.timeline ?? 0,
      hole.begin === undefined ? null : formatLsn(hole.begin.lsn),
      hole.end === 0n ? null : formatLsn(hole.end),
      hole.beginUs,
      hole.endUs,
      hole.reason,
    ],
  );
}

export async function recordGroupError(tx: Queryable, taskId: bigint, lastError: string): Promise<void> {
  await updateRows(tx, 'round_groups', { task_id: taskId }, { last_error: lastError });
}

export async function highestRound(db: Queryable, tenantId: bigint): Promise<bigint> {
  const rows = await db.query<{ round: bigint | null }>(
    'SELECT max(round) AS round FROM holdfast.rounds WHERE tenant_id = $1',
    [tenantId],
  );
  return rows[0]?.round ?? 0n;
}

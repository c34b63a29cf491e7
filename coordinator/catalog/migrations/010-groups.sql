-- Partition groups that come and go while a round runs, and forks that leave backup sets behind.

ALTER TABLE holdfast.partition_groups
  -- False: the destination's tenant_info does not say yet what this row does.
  ADD COLUMN recorded boolean NOT NULL DEFAULT true,
  -- Since when no agent declares it. It leaves when the destination knows. 0: declared.
  ADD COLUMN undeclared_us bigint NOT NULL DEFAULT 0;

-- Of groups that joined again.
CREATE TABLE holdfast.earlier_memberships (
  tenant_id bigint NOT NULL REFERENCES holdfast.tenants,
  partition_group text NOT NULL,
  joined_us bigint NOT NULL,
  left_us bigint NOT NULL,
  system_identifier numeric(20) NOT NULL,
  PRIMARY KEY (tenant_id, partition_group, joined_us)
);

ALTER TABLE holdfast.round_groups
  -- False: it joined the running round, and its own start is not at the destination yet.
  ADD COLUMN begun boolean NOT NULL DEFAULT true,
  -- 0: its log is archived as long as the round goes on.
  ADD COLUMN left_us bigint NOT NULL DEFAULT 0,
  -- The timeline whose ancestors holdfast.round_lineages has.
  ADD COLUMN lineage_timeline bigint NOT NULL DEFAULT 0;

-- What the destination's round_begin and members/ say. joined_us 0: since the round's beginning; left_us 0: still.
CREATE TABLE holdfast.round_members (
  tenant_id bigint NOT NULL,
  round bigint NOT NULL,
  partition_group text NOT NULL,
  membership integer NOT NULL,
  joined_us bigint NOT NULL,
  left_us bigint NOT NULL,
  begun boolean NOT NULL,
  PRIMARY KEY (tenant_id, round, partition_group, membership),
  FOREIGN KEY (tenant_id, round) REFERENCES holdfast.rounds
);
INSERT INTO holdfast.round_members
SELECT g.tenant_id, g.round, g.partition_group, 1, 0, 0, true
FROM holdfast.round_groups g JOIN holdfast.rounds r ON r.tenant_id = g.tenant_id AND r.round = g.round
WHERE r.start_us > 0;

-- The timelines that a group's newest archived one descends from and itself, and where each was left (null: not at all).
CREATE TABLE holdfast.round_lineages (
  tenant_id bigint NOT NULL,
  round bigint NOT NULL,
  partition_group text NOT NULL,
  timeline bigint NOT NULL,
  end_lsn pg_lsn,
  PRIMARY KEY (tenant_id, round, partition_group, timeline),
  FOREIGN KEY (tenant_id, round, partition_group) REFERENCES holdfast.round_groups
);

-- One row per restorable interval, and one per hole with its reason. An instant is restored with the groups that were
-- members then, from a set that has each of them, stopped before it and on the lineage of the newest timeline, each with
-- its log archived up to the instant. Of a checkpoint, which never goes back (R5), only what the present lineage has counts;
-- a set restores its own end always. Intervals of one round that touch are shown as one. What lies between two of them,
-- or behind the last when nothing goes on, is a hole; `lost_log` is what no archive has of it.
DROP VIEW oceanbase.cdb_ob_restore_windows;
CREATE VIEW oceanbase.cdb_ob_restore_windows AS
WITH changes AS (
  SELECT DISTINCT m.tenant_id, m.round, c.begin_us
  FROM holdfast.round_members m CROSS JOIN LATERAL (VALUES (0::bigint), (m.joined_us), (m.left_us)) c (begin_us)
), periods AS (
  SELECT *, lead(begin_us) OVER (PARTITION BY tenant_id, round ORDER BY begin_us) AS end_us FROM changes
), pieces AS (
  SELECT b.tenant_id, b.tenant_name, b.round, b.backup_set_id, p.begin_us, p.end_us,
    greatest(p.begin_us, max(s.stop_us)) AS from_us,
    least(greatest(max(s.stop_us), min(least(g.checkpoint_us, g.lineage_us))), p.end_us - 1) AS until_us
  FROM holdfast.backup_sets b
  JOIN periods p ON p.tenant_id = b.tenant_id AND p.round = b.round
  JOIN holdfast.round_members m ON m.tenant_id = p.tenant_id AND m.round = p.round
    AND m.joined_us <= p.begin_us AND (m.left_us = 0 OR m.left_us > p.begin_us)
  JOIN holdfast.round_groups g ON g.tenant_id = m.tenant_id AND g.round = m.round
    AND g.partition_group = m.partition_group
  LEFT JOIN holdfast.set_groups s ON s.tenant_id = b.tenant_id AND s.backup_set_id = b.backup_set_id
    AND s.partition_group = m.partition_group
  LEFT JOIN holdfast.round_lineages l ON l.tenant_id = g.tenant_id AND l.round = g.round
    AND l.partition_group = g.partition_group AND l.timeline = s.timeline
  WHERE b.state = 'SUCCESS' AND b.file_status = 'AVAILABLE'
  GROUP BY b.tenant_id, b.backup_set_id, p.begin_us, p.end_us
  HAVING bool_and(s.partition_group IS NOT NULL AND (g.lineage_timeline = 0
    OR l.timeline IS NOT NULL AND (l.end_lsn IS NULL OR l.end_lsn >= s.stop_lsn)))
), bordered AS (
  SELECT *, max(until_us) OVER (PARTITION BY tenant_id, round ORDER BY from_us, until_us
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before_us
  FROM pieces WHERE from_us <= until_us
), numbered AS (
  SELECT *, count(*) FILTER (WHERE before_us IS NULL OR from_us > before_us + 1)
    OVER (PARTITION BY tenant_id, round ORDER BY from_us, until_us) AS island
  FROM bordered
), windows AS (
  SELECT n.tenant_id, n.tenant_name, n.round, min(n.from_us) AS from_us, max(n.until_us) AS until_us,
    min(n.backup_set_id) AS first_set_id, max(n.backup_set_id) AS last_set_id,
    max(r.state) AS state, max(r.reason) AS reason
  FROM numbered n JOIN holdfast.rounds r ON r.tenant_id = n.tenant_id AND r.round = n.round
  GROUP BY n.tenant_id, n.tenant_name, n.round, n.island
), following AS (
  SELECT *, lead(from_us) OVER w AS next_from_us, lead(round) OVER w AS next_round
  FROM windows WINDOW w AS (PARTITION BY tenant_id ORDER BY round, from_us)
), explained AS (
  -- Who joined or left between the window and the next one; behind the last window, who joined and is a member.
  SELECT f.*, (
    SELECT string_agg(format('partition group %s %s at %s', m.partition_group, c.what, holdfast.time_of(c.at_us)), ', '
      ORDER BY c.at_us, m.partition_group)
    FROM holdfast.round_members m CROSS JOIN LATERAL (VALUES ('joined', m.joined_us), ('left', m.left_us)) c (what, at_us)
    WHERE m.tenant_id = f.tenant_id AND m.round = f.round AND c.at_us > f.until_us
      AND (c.at_us <= f.next_from_us OR f.next_from_us IS NULL AND c.what = 'joined' AND m.left_us = 0)
  ) AS change
  FROM following f
), lost AS (
  SELECT g.tenant_id, g.round,
    string_agg(format('%s: %s to %s of timeline %s', g.partition_group, g.hole_begin,
      coalesce(n.start_lsn, g.hole_end)::text, g.hole_timeline), ', ' ORDER BY g.partition_group) AS log
  FROM holdfast.round_groups g
  -- The next round's start is where the log really goes on.
  LEFT JOIN holdfast.round_groups n ON n.tenant_id = g.tenant_id AND n.round = g.round + 1
    AND n.partition_group = g.partition_group AND n.system_identifier = g.system_identifier
    AND n.start_lsn >= g.hole_begin
  WHERE g.hole_timeline > 0 AND g.hole_begin IS NOT NULL
  GROUP BY g.tenant_id, g.round
)
SELECT tenant_id, tenant_name, 'RESTORABLE'::text AS status, round AS log_archive_round,
  first_set_id AS first_backup_set_id, last_set_id AS last_backup_set_id,
  holdfast.time_of(from_us) AS from_time, holdfast.time_of(until_us) AS until_time, NULL::text AS lost_log,
  CASE WHEN change IS NOT NULL THEN change
    WHEN state = 'DOING' THEN 'the log is being archived' ELSE nullif(reason, '') END AS comment
FROM explained
UNION ALL
SELECT f.tenant_id, f.tenant_name, 'HOLE', f.round, f.last_set_id, NULL,
  holdfast.time_of(f.until_us), holdfast.time_of(coalesce(f.next_from_us, 0)),
  CASE WHEN f.change IS NULL THEN l.log END,
  format('%s; %s',
    coalesce(f.change, format('round %s ended (%s)', f.round, coalesce(nullif(f.reason, ''), lower(f.state)))),
    CASE WHEN f.next_round IS NULL THEN 'restorable again after a full backup'
      WHEN f.next_round = f.round THEN 'restorable again after it'
      ELSE format('the first backup set of round %s starts after it', f.next_round) END)
FROM explained f LEFT JOIN lost l ON l.tenant_id = f.tenant_id AND l.round = f.round
WHERE f.next_from_us > f.until_us + 1
  OR f.next_from_us IS NULL AND (f.state = 'INTERRUPTED' OR f.change IS NOT NULL
    OR EXISTS (SELECT FROM holdfast.rounds n WHERE n.tenant_id = f.tenant_id AND n.round > f.round));

-- Groups that left count for what they have archived, and for nothing else. What is owed, or fails, belongs to how the
-- round ended.
CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_archivelog_summary AS
SELECT
  1::bigint AS incarnation,
  r.round AS log_archive_round,
  r.tenant_id,
  r.tenant_name,
  r.state AS status,
  holdfast.time_of(r.start_us) AS min_first_time,
  holdfast.time_of(c.checkpoint_us) AS max_next_time,
  holdfast.time_of(c.checkpoint_us) AS checkpoint_time,
  CASE WHEN g.groups = 1 THEN g.checkpoint_lsn::text END AS checkpoint_lsn,
  CASE WHEN g.groups = 1 THEN holdfast.lsn_number(g.checkpoint_lsn) END AS checkpoint_lsn_number,
  g.lag_bytes,
  CASE WHEN r.state IN ('BEGINNING', 'DOING', 'STOPPING') THEN holdfast.seconds_between(c.checkpoint_us, 0) END AS lag_seconds,
  g.groups AS partition_group_count,
  g.input_bytes,
  g.output_bytes,
  holdfast.ratio(g.input_bytes, g.output_bytes) AS compression_ratio,
  holdfast.display_bytes(g.input_bytes) AS input_bytes_display,
  holdfast.display_bytes(g.output_bytes) AS output_bytes_display,
  holdfast.time_of(r.end_us) AS end_time,
  concat_ws('; ', nullif(r.reason, ''),
    CASE WHEN r.end_owed THEN 'round_end is still to be written at the destination' END,
    nullif(r.last_error, ''),
    CASE WHEN r.state IN ('BEGINNING', 'DOING', 'STOPPING') THEN g.last_error END) AS comment,
  r.display_destination AS path
FROM holdfast.rounds r
-- Until the first progress arrives, the round reaches as far as it began.
CROSS JOIN LATERAL (SELECT greatest(r.checkpoint_us, r.start_us) AS checkpoint_us) c
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE rg.left_us = 0) AS groups,
    min(rg.checkpoint_lsn) FILTER (WHERE rg.left_us = 0) AS checkpoint_lsn,
    max(greatest(holdfast.lsn_number(rg.server_lsn) - holdfast.lsn_number(rg.checkpoint_lsn), 0))
      FILTER (WHERE rg.left_us = 0) AS lag_bytes,
    sum(rg.earlier_input_bytes + rg.input_bytes)::bigint AS input_bytes,
    sum(rg.earlier_output_bytes + rg.output_bytes)::bigint AS output_bytes,
    string_agg(rg.partition_group || ': ' || rg.last_error, '; ' ORDER BY rg.partition_group)
      FILTER (WHERE rg.last_error <> '' AND rg.left_us = 0) AS last_error
  FROM holdfast.round_groups rg
  WHERE rg.tenant_id = r.tenant_id AND rg.round = r.round
) g;

-- Per partition group, of each tenant's newest round: how far it is, how long the rest has waited, and for what. What a lost
-- agent said last is marked as stale. A group that left is shown no more; one that joined is BEGINNING until the destination
-- has its start.
DROP VIEW oceanbase.cdb_ob_backup_archivelog_progress;
CREATE VIEW oceanbase.cdb_ob_backup_archivelog_progress AS
SELECT
  1::bigint AS incarnation,
  g.tenant_id,
  r.tenant_name,
  g.round AS log_archive_round,
  g.partition_group,
  g.server_id,
  s.ip AS svr_ip,
  s.port AS svr_port,
  g.instance,
  CASE WHEN r.state IN ('STOP', 'INTERRUPTED') THEN r.state
    WHEN NOT g.begun THEN 'BEGINNING' ELSE g.state END AS status,
  holdfast.time_of(g.start_us) AS min_first_time,
  holdfast.time_of(g.checkpoint_us) AS max_next_time,
  g.start_lsn::text AS start_lsn,
  holdfast.lsn_number(g.start_lsn) AS start_lsn_number,
  g.checkpoint_timeline AS timeline,
  g.checkpoint_lsn::text AS checkpoint_lsn,
  holdfast.lsn_number(g.checkpoint_lsn) AS checkpoint_lsn_number,
  holdfast.time_of(g.checkpoint_us) AS checkpoint_time,
  g.server_lsn::text AS server_lsn,
  holdfast.lsn_number(g.server_lsn) AS server_lsn_number,
  greatest(holdfast.lsn_number(g.server_lsn) - holdfast.lsn_number(g.checkpoint_lsn), 0) AS lag_bytes,
  CASE WHEN x.live THEN holdfast.seconds_between(g.checkpoint_us, 0) END AS lag_seconds,
  g.backlog_bytes,
  holdfast.display_bytes(g.backlog_bytes) AS backlog_display,
  -- What lies before the checkpoint is archived: the oldest log that is not, is at most this old.
  CASE WHEN x.live THEN CASE WHEN g.backlog_bytes = 0 AND x.waiting_for = '' THEN 0
    ELSE holdfast.seconds_between(g.checkpoint_us, 0) END END AS oldest_unarchived_seconds,
  x.bytes_done,
  x.bytes_done + g.backlog_bytes AS bytes_total,
  x.bytes_per_sec,
  CASE WHEN x.live THEN holdfast.estimated_end(g.backlog_bytes, x.bytes_per_sec) END AS estimated_end_time,
  x.bytes_done AS input_bytes,
  g.earlier_output_bytes + g.output_bytes AS output_bytes,
  g.epoch,
  g.slot_state,
  g.slot_retained_bytes,
  nullif(g.wal_free_bytes, 0) AS log_disk_free_bytes,
  holdfast.display_bytes(nullif(g.wal_free_bytes, 0)) AS log_disk_free_display,
  x.waiting_for,
  CASE WHEN x.live THEN holdfast.time_of(g.destination_away_us) END AS destination_away_since,
  g.last_error,
  holdfast.time_of(g.updated_us) AS updated_time,
  x.stale,
  concat_ws('; ',
    CASE WHEN x.stale THEN format('the agent of server %s is lost: backlog, slot and free disk are as of %s', g.server_id,
      to_char(holdfast.time_of(g.updated_us) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"+00"')) END,
    CASE WHEN x.live AND g.overdue THEN 'the server may have given up log that is not archived' END,
    x.advice) AS comment
FROM holdfast.round_groups g
JOIN holdfast.rounds r ON r.tenant_id = g.tenant_id AND r.round = g.round
LEFT JOIN holdfast.tasks k ON k.task_id = g.task_id
LEFT JOIN holdfast.servers s ON s.server_id = g.server_id
CROSS JOIN LATERAL (
  SELECT g.earlier_input_bytes + g.input_bytes AS bytes_done,
    holdfast.rate(g.earlier_input_bytes + g.input_bytes, holdfast.seconds_between(g.start_us, r.end_us)) AS bytes_per_sec,
    r.state IN ('BEGINNING', 'DOING', 'STOPPING') AS live,
    r.state IN ('BEGINNING', 'DOING', 'STOPPING') AND g.server_id > 0 AND s.status = 'INACTIVE' AS stale,
    (SELECT string_agg(i.advice, '; ' ORDER BY i.server_id, i.instance) FROM holdfast.instances i
      WHERE i.tenant_id = g.tenant_id AND i.partition_group = g.partition_group AND i.advice <> '') AS advice,
    CASE WHEN r.state IN ('STOP', 'INTERRUPTED') THEN ''
      WHEN k.state = 'PENDING' AND k.error_message <> '' THEN k.error_message
      WHEN k.state = 'PENDING' THEN 'a leader of the partition group'
      WHEN s.status = 'INACTIVE' THEN 'the agent of server ' || g.server_id
      ELSE g.waiting_for END AS waiting_for
) x
WHERE g.left_us = 0 AND r.round = (SELECT max(n.round) FROM holdfast.rounds n WHERE n.tenant_id = r.tenant_id);

-- Holes of the archived log, by partition group; sets whose files are gone; and what the archiver waits for.

ALTER TABLE holdfast.round_groups
  -- 0: no hole. The rest says nothing then.
  ADD COLUMN hole_timeline bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_begin pg_lsn,
  -- Null: where the log goes on is not known.
  ADD COLUMN hole_end pg_lsn,
  ADD COLUMN hole_begin_us bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_end_us bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_reason text NOT NULL DEFAULT '',
  ADD COLUMN slot_retained_bytes bigint NOT NULL DEFAULT 0,
  -- On the disk of the server's log; 0: not known.
  ADD COLUMN wal_free_bytes bigint NOT NULL DEFAULT 0;

ALTER TABLE holdfast.backup_sets DROP CONSTRAINT backup_sets_file_status_check;
ALTER TABLE holdfast.backup_sets ADD CONSTRAINT backup_sets_file_status_check
  CHECK (file_status IN ('INCOMPLETE', 'AVAILABLE', 'BROKEN'));

-- One row per restorable interval, and one per hole with its reason. A set restores from its stop to the checkpoint of
-- its round; the windows of one round overlap and are shown as one. A hole is the time between the end of one round's
-- window and the next window; one that no backup set ends yet is open. `lost_log` is what no archive has of it.
DROP VIEW oceanbase.cdb_ob_restore_windows;
CREATE VIEW oceanbase.cdb_ob_restore_windows AS
WITH windows AS (
  SELECT b.tenant_id, b.tenant_name, b.round, min(b.restorable_from_us) AS from_us, max(r.checkpoint_us) AS until_us,
    min(b.backup_set_id) AS first_set_id, max(b.backup_set_id) AS last_set_id,
    max(r.state) AS state, max(r.reason) AS reason
  FROM holdfast.backup_sets b
  JOIN holdfast.rounds r ON r.tenant_id = b.tenant_id AND r.round = b.round
  WHERE b.state = 'SUCCESS' AND b.file_status = 'AVAILABLE' AND b.restorable_from_us <= r.checkpoint_us
  GROUP BY b.tenant_id, b.tenant_name, b.round
), following AS (
  SELECT *, lead(from_us) OVER w AS next_from_us, lead(round) OVER w AS next_round
  FROM windows WINDOW w AS (PARTITION BY tenant_id ORDER BY round)
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
  CASE WHEN state = 'DOING' THEN 'the log is being archived' ELSE nullif(reason, '') END AS comment
FROM following
UNION ALL
SELECT f.tenant_id, f.tenant_name, 'HOLE', f.round, f.last_set_id, NULL,
  holdfast.time_of(f.until_us), holdfast.time_of(coalesce(f.next_from_us, 0)), l.log,
  format('round %s ended (%s); %s', f.round, coalesce(nullif(f.reason, ''), lower(f.state)),
    CASE WHEN f.next_round IS NULL THEN 'restorable again after a full backup'
      ELSE format('the first backup set of round %s starts after it', f.next_round) END)
FROM following f LEFT JOIN lost l ON l.tenant_id = f.tenant_id AND l.round = f.round
WHERE f.next_from_us > f.until_us
  OR f.next_from_us IS NULL AND (f.state = 'INTERRUPTED'
    OR EXISTS (SELECT FROM holdfast.rounds n WHERE n.tenant_id = f.tenant_id AND n.round > f.round));

-- What is owed, or fails, belongs to how the round ended.
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
  SELECT count(*) AS groups,
    min(rg.checkpoint_lsn) AS checkpoint_lsn,
    max(greatest(holdfast.lsn_number(rg.server_lsn) - holdfast.lsn_number(rg.checkpoint_lsn), 0)) AS lag_bytes,
    sum(rg.earlier_input_bytes + rg.input_bytes)::bigint AS input_bytes,
    sum(rg.earlier_output_bytes + rg.output_bytes)::bigint AS output_bytes,
    string_agg(rg.partition_group || ': ' || rg.last_error, '; ' ORDER BY rg.partition_group)
      FILTER (WHERE rg.last_error <> '') AS last_error
  FROM holdfast.round_groups rg
  WHERE rg.tenant_id = r.tenant_id AND rg.round = r.round
) g;

-- Per partition group, of each tenant's newest round: how far it is, how long the rest has waited, and for what.
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
  CASE WHEN r.state IN ('STOP', 'INTERRUPTED') THEN r.state ELSE g.state END AS status,
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
  g.last_error,
  holdfast.time_of(g.updated_us) AS updated_time
FROM holdfast.round_groups g
JOIN holdfast.rounds r ON r.tenant_id = g.tenant_id AND r.round = g.round
LEFT JOIN holdfast.tasks k ON k.task_id = g.task_id
LEFT JOIN holdfast.servers s ON s.server_id = g.server_id
CROSS JOIN LATERAL (
  SELECT g.earlier_input_bytes + g.input_bytes AS bytes_done,
    holdfast.rate(g.earlier_input_bytes + g.input_bytes, holdfast.seconds_between(g.start_us, r.end_us)) AS bytes_per_sec,
    r.state IN ('BEGINNING', 'DOING', 'STOPPING') AS live,
    CASE WHEN r.state IN ('STOP', 'INTERRUPTED') THEN ''
      WHEN k.state = 'PENDING' AND k.error_message <> '' THEN k.error_message
      WHEN k.state = 'PENDING' THEN 'a leader of the partition group'
      WHEN s.status = 'INACTIVE' THEN 'the agent of server ' || g.server_id
      ELSE g.waiting_for END AS waiting_for
) x
WHERE r.round = (SELECT max(n.round) FROM holdfast.rounds n WHERE n.tenant_id = r.tenant_id);

-- What someone should know while a round runs: destinations that are away, what servers keep for slots and what is wrong
-- with that, what an agent that is lost said last, and slots that are still to be dropped.

ALTER TABLE holdfast.instances
  -- As the server shows them; empty: not known.
  ADD COLUMN max_slot_wal_keep_size text NOT NULL DEFAULT '',
  ADD COLUMN idle_slot_timeout text NOT NULL DEFAULT '',
  -- What must be changed on the server, so that it keeps the log as the tenant's parameters want it; empty: nothing.
  ADD COLUMN advice text NOT NULL DEFAULT '';

ALTER TABLE holdfast.round_groups
  -- Since when the archiver cannot work at the destination; 0: it can, as far as is known.
  ADD COLUMN destination_away_us bigint NOT NULL DEFAULT 0,
  -- Its agent is lost, and the server may have given up log since: told once, until the archiver reports again.
  ADD COLUMN overdue boolean NOT NULL DEFAULT false;

-- Slots of tenants that were dropped, until the agent has dropped them.
CREATE TABLE holdfast.owed_slots (
  server_id bigint NOT NULL REFERENCES holdfast.servers,
  instance text NOT NULL,
  slot_name text NOT NULL,
  since_us bigint NOT NULL,
  PRIMARY KEY (server_id, instance, slot_name)
);

CREATE OR REPLACE VIEW oceanbase.dba_ob_partition_groups AS
SELECT g.tenant_id, t.tenant_name, g.partition_group, i.server_id, s.ip AS svr_ip, s.port AS svr_port, s.zone, i.instance,
  CASE i.role WHEN 'PRIMARY' THEN 'LEADER' WHEN 'STANDBY' THEN 'FOLLOWER' ELSE i.role END AS role,
  CASE WHEN i.system_identifier > 0 THEN i.system_identifier END AS system_identifier,
  i.timeline, i.lsn::text AS lsn, holdfast.lsn_number(i.lsn) AS lsn_number, i.server_version, i.host, i.port,
  i.data_directory, i.restored, nullif(i.error, '') AS error, holdfast.time_of(i.seen_us) AS last_seen_time,
  holdfast.time_of(g.joined_us) AS join_time, holdfast.time_of(g.left_us) AS leave_time,
  nullif(i.max_slot_wal_keep_size, '') AS max_slot_wal_keep_size,
  nullif(i.idle_slot_timeout, '') AS idle_replication_slot_timeout,
  nullif(i.advice, '') AS advice
FROM holdfast.partition_groups g
JOIN holdfast.tenants t ON t.tenant_id = g.tenant_id AND t.status <> 'DROPPED'
LEFT JOIN holdfast.instances i ON i.tenant_id = g.tenant_id AND i.partition_group = g.partition_group
LEFT JOIN holdfast.servers s ON s.server_id = i.server_id;

-- What a lost agent said last is marked as stale.
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
WHERE r.round = (SELECT max(n.round) FROM holdfast.rounds n WHERE n.tenant_id = r.tenant_id);

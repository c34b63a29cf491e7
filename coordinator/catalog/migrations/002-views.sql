-- What users read. Names and columns follow OceanBase 3.1 and 4.x, with a partition group in place of table and
-- partition ids. Everything is lower case and unquoted, so CDB_OB_BACKUP_SET_FILES works as it is written.

-- A time of ours; 0 is null.
CREATE FUNCTION holdfast.time_of(us bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN us = 0 THEN NULL ELSE timestamptz 'epoch' + us * interval '1 microsecond' END $$;

CREATE FUNCTION holdfast.now_us() RETURNS bigint LANGUAGE sql STABLE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint $$;

-- The numeric form of a position.
CREATE FUNCTION holdfast.lsn_number(lsn pg_lsn) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT lsn - '0/0'::pg_lsn $$;

-- 1610612736 -> 1.50GB
CREATE FUNCTION holdfast.display_bytes(bytes numeric) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE
  WHEN bytes IS NULL THEN NULL
  WHEN bytes < 1024 THEN round(bytes)::text || 'B'
  WHEN bytes < 1024::numeric ^ 2 THEN round(bytes / 1024, 2)::text || 'KB'
  WHEN bytes < 1024::numeric ^ 3 THEN round(bytes / 1024::numeric ^ 2, 2)::text || 'MB'
  WHEN bytes < 1024::numeric ^ 4 THEN round(bytes / 1024::numeric ^ 3, 2)::text || 'GB'
  ELSE round(bytes / 1024::numeric ^ 4, 2)::text || 'TB' END $$;

-- Seconds between two times of ours; `until_us` 0 is now.
CREATE FUNCTION holdfast.seconds_between(from_us bigint, until_us bigint) RETURNS numeric LANGUAGE sql STABLE AS
$$ SELECT CASE WHEN from_us = 0 THEN NULL
  ELSE round(greatest((CASE WHEN until_us = 0 THEN holdfast.now_us() ELSE until_us END) - from_us, 0) / 1000000.0, 3) END $$;

-- Bytes per second.
CREATE FUNCTION holdfast.rate(bytes numeric, seconds numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN seconds > 0 THEN round(bytes / seconds) END $$;

-- When `left` bytes will be done at this rate.
CREATE FUNCTION holdfast.estimated_end(left_bytes numeric, bytes_per_second numeric) RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT CASE WHEN bytes_per_second > 0 AND left_bytes >= 0 AND left_bytes / bytes_per_second < 100000000
  THEN clock_timestamp() + (left_bytes / bytes_per_second)::double precision * interval '1 second' END $$;

CREATE FUNCTION holdfast.ratio(input numeric, output numeric) RETURNS numeric LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT CASE WHEN output > 0 THEN round(input / output, 2) END $$;

-- 00:01:02.50
CREATE FUNCTION holdfast.display_seconds(seconds numeric) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT to_char(floor(seconds / 3600), 'FM9900') || ':' || to_char(mod(floor(seconds / 60), 60), 'FM00') || ':'
  || to_char(mod(seconds, 60), 'FM00.00') $$;

-- ---- log archiving ------------------------------------------------------------------------------------------------

CREATE VIEW oceanbase.cdb_ob_backup_archivelog_summary AS
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
  CASE WHEN r.end_owed THEN concat_ws('; ', nullif(r.reason, ''), 'round_end is still to be written at the destination')
    ELSE coalesce(nullif(r.reason, ''), r.last_error) END AS comment,
  r.display_destination AS path
FROM holdfast.rounds r
-- Until the first progress arrives, the round reaches as far as it began.
CROSS JOIN LATERAL (SELECT greatest(r.checkpoint_us, r.start_us) AS checkpoint_us) c
CROSS JOIN LATERAL (
  SELECT count(*) AS groups,
    min(rg.checkpoint_lsn) AS checkpoint_lsn,
    max(greatest(holdfast.lsn_number(rg.server_lsn) - holdfast.lsn_number(rg.checkpoint_lsn), 0)) AS lag_bytes,
    sum(rg.earlier_input_bytes + rg.input_bytes)::bigint AS input_bytes,
    sum(rg.earlier_output_bytes + rg.output_bytes)::bigint AS output_bytes
  FROM holdfast.round_groups rg
  WHERE rg.tenant_id = r.tenant_id AND rg.round = r.round
) g;

-- The newest round of every tenant that is there; a tenant that was never archived is STOP, round 0.
CREATE VIEW oceanbase.cdb_ob_backup_archivelog AS
SELECT
  1::bigint AS incarnation,
  coalesce(s.log_archive_round, 0) AS log_archive_round,
  t.tenant_id,
  t.tenant_name,
  coalesce(s.status, 'STOP') AS status,
  s.min_first_time,
  s.max_next_time,
  s.checkpoint_time,
  s.checkpoint_lsn,
  s.checkpoint_lsn_number,
  s.lag_bytes,
  s.lag_seconds,
  s.partition_group_count,
  s.input_bytes,
  s.output_bytes,
  s.compression_ratio,
  s.input_bytes_display,
  s.output_bytes_display,
  s.end_time,
  s.comment,
  s.path
FROM holdfast.tenants t
LEFT JOIN LATERAL (
  SELECT * FROM oceanbase.cdb_ob_backup_archivelog_summary x
  WHERE x.tenant_id = t.tenant_id ORDER BY x.log_archive_round DESC LIMIT 1
) s ON true
WHERE t.status <> 'DROPPED';

-- Per partition group, of each tenant's newest round.
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
  CASE WHEN r.state IN ('BEGINNING', 'DOING', 'STOPPING') THEN holdfast.seconds_between(g.checkpoint_us, 0) END AS lag_seconds,
  x.bytes_done,
  x.bytes_done + g.backlog_bytes AS bytes_total,
  x.bytes_per_sec,
  CASE WHEN r.state IN ('BEGINNING', 'DOING', 'STOPPING') THEN holdfast.estimated_end(g.backlog_bytes, x.bytes_per_sec) END AS estimated_end_time,
  x.bytes_done AS input_bytes,
  g.earlier_output_bytes + g.output_bytes AS output_bytes,
  g.epoch,
  g.slot_state,
  g.waiting_for,
  g.last_error,
  holdfast.time_of(g.updated_us) AS updated_time
FROM holdfast.round_groups g
JOIN holdfast.rounds r ON r.tenant_id = g.tenant_id AND r.round = g.round
LEFT JOIN holdfast.servers s ON s.server_id = g.server_id
CROSS JOIN LATERAL (
  SELECT g.earlier_input_bytes + g.input_bytes AS bytes_done,
    holdfast.rate(g.earlier_input_bytes + g.input_bytes, holdfast.seconds_between(g.start_us, r.end_us)) AS bytes_per_sec
) x
WHERE r.round = (SELECT max(n.round) FROM holdfast.rounds n WHERE n.tenant_id = r.tenant_id);

-- ---- jobs and tasks -----------------------------------------------------------------------------------------------

CREATE VIEW oceanbase.cdb_ob_backup_tasks AS
SELECT
  t.task_id,
  t.job_id,
  1::bigint AS incarnation,
  t.kind AS task_type,
  t.tenant_id,
  j.tenant_name,
  t.partition_group,
  t.state AS status,
  t.attempt,
  t.failures AS retry_count,
  t.server_id,
  s.ip AS svr_ip,
  s.port AS svr_port,
  t.instance,
  t.progress ->> 'phase' AS phase,
  x.bytes_done,
  x.bytes_total,
  coalesce((t.progress ->> 'macroblocksDone')::bigint, 0) AS finish_macro_block_count,
  coalesce((t.progress ->> 'macroblocksTotal')::bigint, 0) AS macro_block_count,
  coalesce((t.progress ->> 'outputBytes')::bigint, 0) AS output_bytes,
  holdfast.rate(x.bytes_done, x.seconds) AS bytes_per_sec,
  CASE WHEN t.state = 'RUNNING' AND t.kind <> 'ARCHIVE' THEN
    holdfast.estimated_end(x.bytes_total - x.bytes_done, holdfast.rate(x.bytes_done, x.seconds)) END AS estimated_end_time,
  holdfast.time_of(t.started_us) AS start_time,
  holdfast.time_of(t.ended_us) AS end_time,
  nullif(t.error_code, '') AS result,
  nullif(t.error_message, '') AS comment
FROM holdfast.tasks t
JOIN holdfast.jobs j ON j.job_id = t.job_id
LEFT JOIN holdfast.servers s ON s.server_id = t.server_id
CROSS JOIN LATERAL (
  -- The last report of a task comes before its end.
  SELECT coalesce((t.progress ->> CASE t.state WHEN 'SUCCEEDED' THEN 'bytesTotal' ELSE 'bytesDone' END)::bigint, 0) AS bytes_done,
    coalesce((t.progress ->> 'bytesTotal')::bigint, 0) AS bytes_total,
    holdfast.seconds_between(t.started_us, t.ended_us) AS seconds
) x;

CREATE VIEW oceanbase.cdb_ob_backup_jobs AS
SELECT
  j.job_id,
  1::bigint AS incarnation,
  j.kind AS job_type,
  j.tenant_id,
  j.tenant_name,
  b.backup_set_id,
  b.backup_type,
  coalesce(b.plus_archivelog, false) AS plus_archivelog,
  j.state AS status,
  holdfast.time_of(j.created_us) AS start_time,
  holdfast.time_of(j.ended_us) AS end_time,
  holdfast.seconds_between(j.created_us, j.ended_us) AS elapsed_seconds,
  j.cancel_requested,
  nullif(j.error_code, '') AS result,
  coalesce(nullif(j.error_message, ''), nullif(j.comment, '')) AS comment,
  nullif(j.error_hint, '') AS hint,
  j.description,
  b.display_destination AS path
FROM holdfast.jobs j
LEFT JOIN holdfast.backup_sets b ON b.job_id = j.job_id;

-- Sums over the partition groups of a set: from the tasks while it runs, from what was stored when it is done.
CREATE VIEW holdfast.set_totals AS
SELECT
  b.tenant_id,
  b.backup_set_id,
  count(*) AS partition_group_count,
  count(*) FILTER (WHERE t.status = 'SUCCEEDED') AS finish_partition_group_count,
  sum(CASE WHEN g.stop_lsn IS NULL THEN t.macro_block_count ELSE g.macroblock_count END)::bigint AS macro_block_count,
  sum(CASE WHEN g.stop_lsn IS NULL THEN t.finish_macro_block_count ELSE g.macroblock_count END)::bigint AS finish_macro_block_count,
  sum(CASE WHEN g.stop_lsn IS NULL THEN t.bytes_done ELSE g.input_bytes END)::bigint AS bytes_done,
  sum(CASE WHEN g.stop_lsn IS NULL THEN t.bytes_total ELSE g.input_bytes END)::bigint AS bytes_total,
  sum(CASE WHEN g.stop_lsn IS NULL THEN t.output_bytes ELSE g.output_bytes END)::bigint AS output_bytes,
  sum(g.page_failures)::bigint AS page_failure_count,
  min(t.phase) AS phase,
  holdfast.seconds_between(b.start_us, b.end_us) AS seconds
FROM holdfast.backup_sets b
JOIN holdfast.set_groups g ON g.tenant_id = b.tenant_id AND g.backup_set_id = b.backup_set_id
JOIN oceanbase.cdb_ob_backup_tasks t ON t.task_id = g.task_id
GROUP BY b.tenant_id, b.backup_set_id, b.start_us, b.end_us;

-- The newest backup of every tenant.
CREATE VIEW oceanbase.cdb_ob_backup_progress AS
SELECT DISTINCT ON (b.tenant_id)
  1::bigint AS incarnation,
  b.backup_set_id AS bs_key,
  j.job_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' ELSE 'I' END AS backup_type,
  b.tenant_id,
  b.tenant_name,
  t.partition_group_count AS partition_count,
  t.finish_partition_group_count AS finish_partition_count,
  t.macro_block_count,
  t.finish_macro_block_count,
  t.bytes_done,
  t.bytes_total,
  CASE WHEN t.bytes_total > 0 THEN trunc(100.0 * t.bytes_done / t.bytes_total, 1) END AS progress_percent,
  t.bytes_done AS input_bytes,
  t.output_bytes,
  holdfast.rate(t.bytes_done, t.seconds) AS bytes_per_sec,
  holdfast.display_bytes(holdfast.rate(t.bytes_done, t.seconds)) || '/s' AS rate_display,
  CASE WHEN b.state = 'DOING' THEN
    holdfast.estimated_end(t.bytes_total - t.bytes_done, holdfast.rate(t.bytes_done, t.seconds)) END AS estimated_end_time,
  holdfast.time_of(b.start_us) AS start_time,
  holdfast.time_of(b.end_us) AS completion_time,
  CASE b.state WHEN 'DOING' THEN 'RUNNING' WHEN 'SUCCESS' THEN 'COMPLETED' ELSE b.state END AS status,
  CASE WHEN j.state = 'DOING' THEN t.phase ELSE j.state END AS phase
FROM holdfast.backup_sets b
JOIN holdfast.set_totals t ON t.tenant_id = b.tenant_id AND t.backup_set_id = b.backup_set_id
JOIN holdfast.jobs j ON j.job_id = b.job_id
ORDER BY b.tenant_id, b.backup_set_id DESC;

CREATE VIEW oceanbase.cdb_ob_backup_job_details AS
SELECT
  1::bigint AS incarnation,
  b.tenant_id,
  b.tenant_name,
  b.backup_set_id AS bs_key,
  b.job_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' ELSE 'I' END AS backup_type,
  'NONE'::text AS encryption_mode,
  holdfast.time_of(b.start_us) AS start_time,
  holdfast.time_of(b.end_us) AS end_time,
  t.bytes_done AS input_bytes,
  t.output_bytes,
  upper(split_part(b.display_destination, ':', 1)) AS output_device_type,
  t.seconds AS elapsed_seconds,
  holdfast.ratio(t.bytes_done, t.output_bytes) AS compression_ratio,
  holdfast.rate(t.bytes_done, t.seconds) AS input_bytes_per_sec,
  holdfast.rate(t.output_bytes, t.seconds) AS output_bytes_per_sec,
  CASE b.state WHEN 'DOING' THEN 'RUNNING' WHEN 'SUCCESS' THEN 'COMPLETED' ELSE b.state END AS status,
  holdfast.display_bytes(t.bytes_done) AS input_bytes_display,
  holdfast.display_bytes(t.output_bytes) AS output_bytes_display,
  holdfast.display_bytes(holdfast.rate(t.bytes_done, t.seconds)) AS input_bytes_per_sec_display,
  holdfast.display_bytes(holdfast.rate(t.output_bytes, t.seconds)) AS output_bytes_per_sec_display,
  holdfast.display_seconds(t.seconds) AS time_taken_display,
  nullif(b.comment, '') AS comment
FROM holdfast.backup_sets b
JOIN holdfast.set_totals t ON t.tenant_id = b.tenant_id AND t.backup_set_id = b.backup_set_id;

CREATE VIEW oceanbase.cdb_ob_backup_set_details AS
SELECT
  1::bigint AS incarnation,
  b.tenant_id,
  b.tenant_name,
  b.backup_set_id AS bs_key,
  b.backup_set_id,
  b.full_set_id,
  0 AS copy_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' ELSE 'I' END AS backup_type,
  'NONE'::text AS encryption_mode,
  holdfast.time_of(b.start_us) AS start_time,
  holdfast.time_of(b.end_us) AS completion_time,
  t.seconds AS elapsed_seconds,
  false AS keep,
  NULL::timestamptz AS keep_until,
  upper(split_part(b.display_destination, ':', 1)) AS device_type,
  t.output_bytes > 0 AND t.output_bytes < t.bytes_done AS compressed,
  t.bytes_done AS input_bytes,
  t.output_bytes,
  holdfast.rate(t.output_bytes, t.seconds) AS output_rate_bytes,
  holdfast.ratio(t.bytes_done, t.output_bytes) AS compression_ratio,
  holdfast.display_bytes(t.bytes_done) AS input_bytes_display,
  holdfast.display_bytes(t.output_bytes) AS output_bytes_display,
  holdfast.display_bytes(holdfast.rate(t.output_bytes, t.seconds)) || '/s' AS output_rate_bytes_display,
  holdfast.display_seconds(t.seconds) AS time_taken_display,
  b.state AS status,
  b.round AS log_archive_round,
  holdfast.time_of(b.restorable_from_us) AS min_restore_time,
  t.partition_group_count,
  t.macro_block_count,
  t.page_failure_count,
  b.plus_archivelog,
  b.description,
  nullif(b.comment, '') AS comment,
  b.display_destination AS path
FROM holdfast.backup_sets b
JOIN holdfast.set_totals t ON t.tenant_id = b.tenant_id AND t.backup_set_id = b.backup_set_id;

-- One row per set and partition group: what restoring it starts from.
CREATE VIEW oceanbase.cdb_ob_backup_set_files AS
SELECT
  d.incarnation,
  d.tenant_id,
  d.tenant_name,
  d.bs_key,
  d.backup_set_id,
  d.full_set_id,
  d.copy_id,
  d.backup_type,
  g.partition_group,
  d.encryption_mode,
  d.status,
  b.file_status,
  d.start_time,
  d.completion_time,
  d.elapsed_seconds,
  g.timeline,
  g.start_lsn::text AS start_replay_lsn,
  holdfast.lsn_number(g.start_lsn) AS start_replay_lsn_number,
  g.stop_lsn::text AS min_restore_lsn,
  holdfast.lsn_number(g.stop_lsn) AS min_restore_lsn_number,
  holdfast.time_of(g.stop_us) AS min_restore_time,
  d.log_archive_round,
  g.file_count,
  g.macroblock_count AS macro_block_count,
  g.input_bytes,
  g.output_bytes,
  holdfast.ratio(g.input_bytes, g.output_bytes) AS compression_ratio,
  holdfast.display_bytes(g.input_bytes) AS input_bytes_display,
  holdfast.display_bytes(g.output_bytes) AS output_bytes_display,
  d.keep,
  d.keep_until,
  d.device_type,
  d.compressed,
  g.page_failures AS page_failure_count,
  g.server_version,
  d.plus_archivelog,
  d.description,
  d.comment,
  d.path
FROM oceanbase.cdb_ob_backup_set_details d
JOIN holdfast.backup_sets b ON b.tenant_id = d.tenant_id AND b.backup_set_id = d.backup_set_id
JOIN holdfast.set_groups g ON g.tenant_id = d.tenant_id AND g.backup_set_id = d.backup_set_id;

-- ---- restore ------------------------------------------------------------------------------------------------------

CREATE VIEW holdfast.restore_rows AS
SELECT
  j.job_id,
  r.tenant_id,
  r.tenant_name,
  r.backup_tenant_id,
  r.backup_tenant_name,
  r.backup_cluster_id,
  r.backup_cluster_name,
  j.state AS status,
  holdfast.time_of(j.created_us) AS start_time,
  holdfast.time_of(j.ended_us) AS completion_time,
  t.partition_count,
  t.finish_partition_count,
  t.macro_block_count,
  t.finish_macro_block_count,
  t.bytes_done,
  t.bytes_total,
  CASE WHEN t.bytes_total > 0 THEN trunc(100.0 * t.bytes_done / t.bytes_total, 1) END AS progress_percent,
  holdfast.rate(t.bytes_done, x.seconds) AS bytes_per_sec,
  CASE WHEN NOT j.final THEN
    holdfast.estimated_end(t.bytes_total - t.bytes_done, holdfast.rate(t.bytes_done, x.seconds)) END AS estimated_end_time,
  t.replay_lsn::text AS replay_lsn,
  t.target_lsn::text AS target_lsn,
  r.target AS restore_target,
  holdfast.time_of(r.target_us) AS restore_finish_timestamp,
  r.backup_set_id::text AS backup_set_list,
  r.round AS log_archive_round,
  r.pool AS pool_list,
  r.result,
  x.seconds AS elapsed_seconds,
  nullif(concat_ws(': ', nullif(j.error_code, ''), nullif(j.error_message, '')), '') AS info,
  j.description,
  r.display_source AS path,
  j.final
FROM holdfast.restores r
JOIN holdfast.jobs j ON j.job_id = r.job_id
CROSS JOIN LATERAL (SELECT holdfast.seconds_between(j.created_us, j.ended_us) AS seconds) x
CROSS JOIN LATERAL (
  SELECT count(*) AS partition_count,
    count(*) FILTER (WHERE k.state = 'SUCCEEDED') AS finish_partition_count,
    coalesce(sum((k.progress ->> 'macroblocksTotal')::bigint), 0)::bigint AS macro_block_count,
    coalesce(sum((k.progress ->> CASE k.state WHEN 'SUCCEEDED' THEN 'macroblocksTotal' ELSE 'macroblocksDone' END)::bigint), 0)::bigint AS finish_macro_block_count,
    coalesce(sum((k.progress ->> CASE k.state WHEN 'SUCCEEDED' THEN 'bytesTotal' ELSE 'bytesDone' END)::bigint), 0)::bigint AS bytes_done,
    coalesce(sum((k.progress ->> 'bytesTotal')::bigint), 0)::bigint AS bytes_total,
    CASE WHEN count(*) = 1 THEN min('0/0'::pg_lsn + (k.progress ->> 'replayLsn')::numeric) END AS replay_lsn,
    CASE WHEN count(*) = 1 THEN min('0/0'::pg_lsn + (k.progress ->> 'targetLsn')::numeric) END AS target_lsn
  FROM holdfast.tasks k WHERE k.job_id = j.job_id
) t;

CREATE VIEW oceanbase.cdb_ob_restore_progress AS
SELECT job_id, tenant_id, tenant_name, backup_tenant_id, backup_tenant_name, backup_cluster_id, backup_cluster_name,
  status, start_time, completion_time, partition_count, finish_partition_count, macro_block_count,
  finish_macro_block_count, bytes_done, bytes_total, progress_percent, bytes_per_sec, estimated_end_time, replay_lsn,
  target_lsn, restore_target, restore_finish_timestamp, backup_set_list, log_archive_round, pool_list, info,
  description, path
FROM holdfast.restore_rows WHERE NOT final;

CREATE VIEW oceanbase.cdb_ob_restore_history AS
SELECT job_id, tenant_id, tenant_name, backup_tenant_id, backup_tenant_name, backup_cluster_id, backup_cluster_name,
  CASE status WHEN 'RESTORE_SUCCESS' THEN 'SUCCESS' WHEN 'RESTORE_FAIL' THEN 'FAIL' ELSE status END AS status,
  start_time, completion_time, elapsed_seconds, partition_count, finish_partition_count, macro_block_count,
  finish_macro_block_count, bytes_done, bytes_total, bytes_per_sec, restore_target, restore_finish_timestamp,
  (result -> 0 ->> 'host') AS svr_host, (result -> 0 ->> 'port')::integer AS svr_port,
  (result -> 0 ->> 'dataDirectory') AS data_directory, (result -> 0 ->> 'reachedLsn') AS reached_lsn,
  holdfast.time_of(coalesce((result -> 0 ->> 'lastCommitUs')::bigint, 0)) AS last_commit_time,
  result::text AS partition_groups, backup_set_list, log_archive_round, pool_list, info, description, path
FROM holdfast.restore_rows WHERE final;

-- One row per restorable interval, and one per hole between two of them with its reason. A set restores from its stop
-- to the checkpoint of its round; the windows of one round overlap and are shown as one.
CREATE VIEW oceanbase.cdb_ob_restore_windows AS
WITH windows AS (
  SELECT b.tenant_id, b.tenant_name, b.round, min(b.restorable_from_us) AS from_us, max(r.checkpoint_us) AS until_us,
    min(b.backup_set_id) AS first_set_id, max(b.backup_set_id) AS last_set_id,
    max(r.state) AS state, max(r.reason) AS reason
  FROM holdfast.backup_sets b
  JOIN holdfast.rounds r ON r.tenant_id = b.tenant_id AND r.round = b.round
  WHERE b.state = 'SUCCESS' AND b.restorable_from_us <= r.checkpoint_us
  GROUP BY b.tenant_id, b.tenant_name, b.round
), following AS (
  SELECT *, lead(from_us) OVER w AS next_from_us, lead(round) OVER w AS next_round
  FROM windows WINDOW w AS (PARTITION BY tenant_id ORDER BY round)
)
SELECT tenant_id, tenant_name, 'RESTORABLE'::text AS status, round AS log_archive_round,
  first_set_id AS first_backup_set_id, last_set_id AS last_backup_set_id,
  holdfast.time_of(from_us) AS from_time, holdfast.time_of(until_us) AS until_time,
  CASE WHEN state = 'DOING' THEN 'the log is being archived' ELSE nullif(reason, '') END AS comment
FROM following
UNION ALL
SELECT tenant_id, tenant_name, 'HOLE', round, last_set_id, NULL,
  holdfast.time_of(until_us), holdfast.time_of(next_from_us),
  format('round %s ended (%s); the first backup set of round %s starts after it', round,
    coalesce(nullif(reason, ''), lower(state)), next_round)
FROM following WHERE next_from_us > until_us;

-- ---- topology, resources, events ----------------------------------------------------------------------------------

CREATE VIEW oceanbase.dba_ob_tenants AS
SELECT t.tenant_id, t.tenant_name, 'USER'::text AS tenant_type, t.status, holdfast.time_of(t.created_us) AS create_time,
  holdfast.time_of(t.dropped_us) AS drop_time,
  (SELECT count(*) FROM holdfast.partition_groups g WHERE g.tenant_id = t.tenant_id AND g.left_us = 0) AS partition_group_count,
  t.restored_by_job AS restore_job_id,
  coalesce((SELECT r.state FROM holdfast.rounds r WHERE r.tenant_id = t.tenant_id ORDER BY r.round DESC LIMIT 1), 'STOP') AS log_archive_status
FROM holdfast.tenants t;

CREATE VIEW oceanbase.dba_ob_servers AS
SELECT s.server_id AS id, s.ip AS svr_ip, s.port AS svr_port, s.zone, s.status, s.version AS build_version,
  holdfast.time_of(s.attached_us) AS start_service_time, holdfast.time_of(s.heartbeat_us) AS last_heartbeat_time,
  s.resident_memory_bytes, s.free_disk_bytes, holdfast.display_bytes(s.free_disk_bytes) AS free_disk_display,
  (SELECT count(*) FROM holdfast.instances i WHERE i.server_id = s.server_id) AS instance_count, s.agent_uuid
FROM holdfast.servers s;

-- One row per instance: who is the leader, where, and how it is.
CREATE VIEW oceanbase.dba_ob_partition_groups AS
SELECT g.tenant_id, t.tenant_name, g.partition_group, i.server_id, s.ip AS svr_ip, s.port AS svr_port, s.zone, i.instance,
  CASE i.role WHEN 'PRIMARY' THEN 'LEADER' WHEN 'STANDBY' THEN 'FOLLOWER' ELSE i.role END AS role,
  CASE WHEN i.system_identifier > 0 THEN i.system_identifier END AS system_identifier,
  i.timeline, i.lsn::text AS lsn, holdfast.lsn_number(i.lsn) AS lsn_number, i.server_version, i.host, i.port,
  i.data_directory, i.restored, nullif(i.error, '') AS error, holdfast.time_of(i.seen_us) AS last_seen_time,
  holdfast.time_of(g.joined_us) AS join_time, holdfast.time_of(g.left_us) AS leave_time
FROM holdfast.partition_groups g
JOIN holdfast.tenants t ON t.tenant_id = g.tenant_id AND t.status <> 'DROPPED'
LEFT JOIN holdfast.instances i ON i.tenant_id = g.tenant_id AND i.partition_group = g.partition_group
LEFT JOIN holdfast.servers s ON s.server_id = i.server_id;

CREATE VIEW oceanbase.dba_ob_resource_pools AS
SELECT p.name, p.unit AS unit_name, p.unit_num AS unit_count,
  (SELECT string_agg(z, ';' ORDER BY n) FROM jsonb_array_elements_text(p.zone_list) WITH ORDINALITY AS e (z, n)) AS zone_list,
  u.max_cpu, u.max_memory_bytes AS memory_size, holdfast.display_bytes(u.max_memory_bytes) AS memory_size_display,
  u.max_session_num, holdfast.time_of(p.created_us) AS create_time
FROM holdfast.resource_pools p JOIN holdfast.resource_units u ON u.name = p.unit;

CREATE VIEW oceanbase.cdb_ob_event_history AS
SELECT event_id, holdfast.time_of(time_us) AS event_time, module, event, severity, tenant_id, nullif(tenant_name, '') AS tenant_name,
  message, facts
FROM holdfast.events;

-- Synthetic fulls: of which set each was made, and when its pages were last read from the database.

ALTER TABLE holdfast.backup_sets DROP CONSTRAINT backup_sets_backup_type_check;
ALTER TABLE holdfast.backup_sets
  ADD CONSTRAINT backup_sets_backup_type_check CHECK (backup_type IN ('FULL', 'INCREMENTAL', 'SYNTHETIC')),
  -- 0: not a synthetic full.
  ADD COLUMN source_set_id bigint NOT NULL DEFAULT 0,
  ADD COLUMN source_full_set_id bigint NOT NULL DEFAULT 0,
  ADD COLUMN pages_read_us bigint NOT NULL DEFAULT 0;

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_set_details AS
SELECT
  1::bigint AS incarnation,
  b.tenant_id,
  b.tenant_name,
  b.backup_set_id AS bs_key,
  b.backup_set_id,
  b.full_set_id,
  0 AS copy_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' WHEN 'SYNTHETIC' THEN 'S' ELSE 'I' END AS backup_type,
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
  b.display_destination AS path,
  nullif(b.previous_set_id, 0) AS prev_backup_set_id,
  nullif(b.full_reason, '') AS full_reason,
  nullif(b.source_set_id, 0) AS source_backup_set_id,
  holdfast.time_of(nullif(b.pages_read_us, 0)) AS pages_read_time
FROM holdfast.backup_sets b
JOIN holdfast.set_totals t ON t.tenant_id = b.tenant_id AND t.backup_set_id = b.backup_set_id;

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_set_files AS
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
  d.path,
  d.prev_backup_set_id,
  d.full_reason,
  g.total_bytes,
  holdfast.display_bytes(g.total_bytes) AS total_bytes_display,
  d.source_backup_set_id,
  d.pages_read_time
FROM oceanbase.cdb_ob_backup_set_details d
JOIN holdfast.backup_sets b ON b.tenant_id = d.tenant_id AND b.backup_set_id = d.backup_set_id
JOIN holdfast.set_groups g ON g.tenant_id = d.tenant_id AND g.backup_set_id = d.backup_set_id;

-- The newest backup of every tenant.
CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_progress AS
SELECT DISTINCT ON (b.tenant_id)
  1::bigint AS incarnation,
  b.backup_set_id AS bs_key,
  j.job_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' WHEN 'SYNTHETIC' THEN 'S' ELSE 'I' END AS backup_type,
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

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_job_details AS
SELECT
  1::bigint AS incarnation,
  b.tenant_id,
  b.tenant_name,
  b.backup_set_id AS bs_key,
  b.job_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' WHEN 'SYNTHETIC' THEN 'S' ELSE 'I' END AS backup_type,
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

-- Increments: from which set each goes on, why one became a full backup, and what was read for it.

ALTER TABLE holdfast.backup_sets
  -- 0: a full backup.
  ADD COLUMN previous_set_id bigint NOT NULL DEFAULT 0,
  -- Why an incremental request became a full backup.
  ADD COLUMN full_reason text NOT NULL DEFAULT '';

ALTER TABLE holdfast.set_groups
  -- Size of all that the set restores; input_bytes is what was read from the database.
  ADD COLUMN total_bytes bigint NOT NULL DEFAULT 0;
UPDATE holdfast.set_groups SET total_bytes = input_bytes;

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_set_details AS
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
  b.display_destination AS path,
  nullif(b.previous_set_id, 0) AS prev_backup_set_id,
  nullif(b.full_reason, '') AS full_reason
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
  holdfast.display_bytes(g.total_bytes) AS total_bytes_display
FROM oceanbase.cdb_ob_backup_set_details d
JOIN holdfast.backup_sets b ON b.tenant_id = d.tenant_id AND b.backup_set_id = d.backup_set_id
JOIN holdfast.set_groups g ON g.tenant_id = d.tenant_id AND g.backup_set_id = d.backup_set_id;

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_jobs AS
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
  b.display_destination AS path,
  nullif(b.full_reason, '') AS full_reason
FROM holdfast.jobs j
LEFT JOIN holdfast.backup_sets b ON b.job_id = j.job_id;

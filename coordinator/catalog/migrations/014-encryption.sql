-- Encryption: what opens each backup and round, and the data keys that this deployment has made or opened.

-- NONE, PASSWORD_ENCRYPTION, TRANSPARENT_ENCRYPTION (a key file), DUAL_MODE_ENCRYPTION.
ALTER TABLE holdfast.backup_sets ADD COLUMN encryption_mode text NOT NULL DEFAULT 'NONE';
ALTER TABLE holdfast.rounds ADD COLUMN encryption_mode text NOT NULL DEFAULT 'NONE';

CREATE TABLE holdfast.data_keys (
  -- 32 hexadecimal digits, as in the headers of the files.
  key_id text PRIMARY KEY,
  -- Encrypted.
  data_key text NOT NULL,
  created_us bigint NOT NULL
);

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_job_details AS
SELECT
  1::bigint AS incarnation,
  b.tenant_id,
  b.tenant_name,
  b.backup_set_id AS bs_key,
  b.job_id,
  CASE b.backup_type WHEN 'FULL' THEN 'D' WHEN 'SYNTHETIC' THEN 'S' ELSE 'I' END AS backup_type,
  b.encryption_mode,
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
  b.encryption_mode,
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
  r.display_destination AS path,
  r.encryption_mode
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

-- A validation is as far as its agent says: what it does not read again, because it was found right not long ago, is none of
-- its total. Until the agent knows, the plan's is.

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_validation_task AS
SELECT
  t.job_id,
  t.task_id,
  t.tenant_id,
  j.tenant_name,
  1::bigint AS incarnation,
  coalesce((t.spec -> 'subject' ->> 'setId')::bigint, 0) AS backup_set_id,
  (t.spec -> 'subject' ->> 'round')::bigint AS log_archive_round,
  t.partition_group,
  t.state AS status,
  j.spec ->> 'displayDestination' AS backup_dest,
  holdfast.time_of(t.started_us) AS start_time,
  holdfast.time_of(t.ended_us) AS end_time,
  1::bigint AS total_pg_count,
  (t.state = 'SUCCEEDED')::integer::bigint AS finish_pg_count,
  coalesce((t.progress ->> 'macroblocksTotal')::bigint, 0) AS total_macro_block_count,
  x.macro_blocks AS finish_macro_block_count,
  x.log_bytes AS log_size,
  x.bytes_done,
  x.bytes_total,
  CASE WHEN t.state = 'SUCCEEDED' THEN 100.0 WHEN x.bytes_total > 0 THEN trunc(least(100.0, 100.0 * x.bytes_done / x.bytes_total), 1) ELSE 0 END AS progress_percent,
  holdfast.rate(x.bytes_done, x.seconds) AS bytes_per_sec,
  CASE WHEN t.state = 'RUNNING' THEN
    holdfast.estimated_end(x.bytes_total - x.bytes_done, holdfast.rate(x.bytes_done, x.seconds)) END AS estimated_end_time,
  x.finding_count,
  t.result -> 'findings' AS findings,
  t.attempt,
  t.server_id,
  s.ip AS svr_ip,
  s.port AS svr_port,
  nullif(t.error_code, '') AS result,
  nullif(t.error_message, '') AS comment
FROM holdfast.tasks t
JOIN holdfast.jobs j ON j.job_id = t.job_id
LEFT JOIN holdfast.servers s ON s.server_id = t.server_id
CROSS JOIN LATERAL (
  SELECT
    coalesce((t.result ->> 'bytes')::bigint + (t.result ->> 'logBytes')::bigint, (t.result ->> 'bytes')::bigint,
      (t.result ->> 'logBytes')::bigint, (t.progress ->> 'bytesDone')::bigint, 0) AS bytes_done,
    CASE WHEN t.state = 'SUCCEEDED' THEN coalesce((t.result ->> 'bytes')::bigint, 0) + coalesce((t.result ->> 'logBytes')::bigint, 0)
      ELSE coalesce(nullif((t.progress ->> 'bytesTotal')::bigint, 0), (t.spec ->> 'bytes')::bigint, 0) END AS bytes_total,
    coalesce((t.result ->> 'macroblockCount')::bigint, (t.progress ->> 'macroblocksDone')::bigint, 0) AS macro_blocks,
    coalesce((t.result ->> 'logBytes')::bigint, (t.progress ->> 'logBytesDone')::bigint, 0) AS log_bytes,
    coalesce((t.result ->> 'findingCount')::bigint, (t.progress ->> 'findingCount')::bigint, 0) AS finding_count,
    holdfast.seconds_between(t.started_us, t.ended_us) AS seconds
) x
WHERE t.kind = 'VALIDATE';

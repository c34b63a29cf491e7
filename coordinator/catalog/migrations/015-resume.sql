-- What an attempt of a backup took over from the one before, why nothing, and what it waits for.

CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_tasks AS
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
  nullif(t.error_message, '') AS comment,
  x.resume_macro_block_count,
  x.resume_bytes,
  x.resume_comment,
  CASE WHEN t.state = 'RUNNING' THEN nullif(t.progress ->> 'waitingFor', '') END AS waiting_for
FROM holdfast.tasks t
JOIN holdfast.jobs j ON j.job_id = t.job_id
LEFT JOIN holdfast.servers s ON s.server_id = t.server_id
CROSS JOIN LATERAL (
  -- The last report of a task comes before its end.
  SELECT coalesce((t.progress ->> CASE t.state WHEN 'SUCCEEDED' THEN 'bytesTotal' ELSE 'bytesDone' END)::bigint, 0) AS bytes_done,
    coalesce((t.progress ->> 'bytesTotal')::bigint, 0) AS bytes_total,
    holdfast.seconds_between(t.started_us, t.ended_us) AS seconds,
    coalesce((t.progress -> 'resume' ->> 'macroblocks')::bigint, 0) AS resume_macro_block_count,
    coalesce((t.progress -> 'resume' ->> 'bytes')::bigint, 0) AS resume_bytes,
    nullif(t.progress -> 'resume' ->> 'refused', '') AS resume_comment
) x;

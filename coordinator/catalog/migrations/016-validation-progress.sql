-- How far a validation is: never back, and never past its end.

-- One row per partition group of a set, and per partition group of a round's log. A task counts with what its agent
-- said that there is to read, and until then with what it is expected to.
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
  CASE WHEN t.state = 'SUCCEEDED' THEN 100.0 WHEN x.bytes_total > 0 THEN least(trunc(100.0 * x.bytes_done / x.bytes_total, 1), 100.0) ELSE 0 END AS progress_percent,
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

-- backup_set_id 0: all sets, and the log of all rounds. The percentage is that of the tasks, each weighed with what it was
-- expected to read: a task whose agent finds more than that to read takes nothing back.
CREATE OR REPLACE VIEW oceanbase.cdb_ob_backup_validation_job AS
SELECT
  j.job_id,
  j.tenant_id,
  j.tenant_name,
  1::bigint AS incarnation,
  coalesce((j.spec ->> 'setId')::bigint, 0) AS backup_set_id,
  CASE WHEN j.state IN ('RECORD', 'FINISHED') THEN 100.0 WHEN t.weight > 0 THEN trunc(t.weighed / t.weight, 1) ELSE 0 END AS progress_percent,
  j.state AS status,
  holdfast.time_of(j.created_us) AS start_time,
  holdfast.time_of(j.ended_us) AS end_time,
  x.seconds AS elapsed_seconds,
  t.task_count,
  t.finish_task_count,
  t.macro_block_count,
  t.bytes_done,
  t.bytes_total,
  t.log_size,
  holdfast.rate(t.bytes_done, x.seconds) AS bytes_per_sec,
  CASE WHEN NOT j.final THEN
    holdfast.estimated_end(t.bytes_total - t.bytes_done, holdfast.rate(t.bytes_done, x.seconds)) END AS estimated_end_time,
  t.finding_count,
  nullif(j.spec ->> 'skipped', '') AS skipped,
  nullif(j.error_code, '') AS result,
  coalesce(nullif(j.error_message, ''), nullif(j.comment, '')) AS comment,
  j.spec ->> 'displayDestination' AS path
FROM holdfast.jobs j
CROSS JOIN LATERAL (SELECT holdfast.seconds_between(j.created_us, j.ended_us) AS seconds) x
CROSS JOIN LATERAL (
  SELECT count(*) AS task_count,
    count(*) FILTER (WHERE v.status = 'SUCCEEDED') AS finish_task_count,
    coalesce(sum(v.finish_macro_block_count), 0)::bigint AS macro_block_count,
    coalesce(sum(v.bytes_done), 0)::bigint AS bytes_done,
    coalesce(sum(v.bytes_total), 0)::bigint AS bytes_total,
    coalesce(sum(v.log_size), 0)::bigint AS log_size,
    coalesce(sum(v.finding_count), 0)::bigint AS finding_count,
    sum(w.bytes) AS weight,
    sum(w.bytes * v.progress_percent) AS weighed
  FROM oceanbase.cdb_ob_backup_validation_task v
  JOIN holdfast.tasks p ON p.task_id = v.task_id
  CROSS JOIN LATERAL (SELECT greatest((p.spec ->> 'bytes')::bigint, 1) AS bytes) w
  WHERE v.job_id = j.job_id
) t
WHERE j.kind = 'VALIDATE';

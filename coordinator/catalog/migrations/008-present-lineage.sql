-- A round's checkpoint never goes back (R5). What its log restores ends where the present lineage ends, which may be less
-- far for a moment after a failover; a set restores its own beginning always.

-- One row per restorable interval, and one per hole with its reason. A set restores from its stop to the end of what its
-- round has of the present lineage; the windows of one round overlap and are shown as one. A hole is the time between the
-- end of one round's window and the next window; one that no backup set ends yet is open. `lost_log` is what no archive
-- has of it.
CREATE OR REPLACE VIEW oceanbase.cdb_ob_restore_windows AS
WITH windows AS (
  SELECT b.tenant_id, b.tenant_name, b.round, min(b.restorable_from_us) AS from_us,
    max(greatest(b.restorable_from_us, least(r.checkpoint_us, l.lineage_us))) AS until_us,
    min(b.backup_set_id) AS first_set_id, max(b.backup_set_id) AS last_set_id,
    max(r.state) AS state, max(r.reason) AS reason
  FROM holdfast.backup_sets b
  JOIN holdfast.rounds r ON r.tenant_id = b.tenant_id AND r.round = b.round
  CROSS JOIN LATERAL (SELECT min(g.lineage_us) AS lineage_us FROM holdfast.round_groups g
    WHERE g.tenant_id = r.tenant_id AND g.round = r.round) l
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

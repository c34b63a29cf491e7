-- What a failover leaves behind: log of a timeline behind the point where the surviving lineage left it.

ALTER TABLE holdfast.round_groups
  -- Like checkpoint_us, but of the present lineage: it goes back when a new leader's log reaches less far than the old one's.
  ADD COLUMN lineage_us bigint NOT NULL DEFAULT 0,
  -- When the archived timeline changed, and when the destination was last asked what that left behind. 0: never.
  ADD COLUMN forked_us bigint NOT NULL DEFAULT 0,
  ADD COLUMN fork_read_us bigint NOT NULL DEFAULT 0;
UPDATE holdfast.round_groups SET lineage_us = checkpoint_us,
  forked_us = CASE WHEN start_timeline > 0 AND checkpoint_timeline > start_timeline THEN 1 ELSE 0 END;

CREATE TABLE holdfast.abandoned_log (
  tenant_id bigint NOT NULL,
  round bigint NOT NULL,
  partition_group text NOT NULL,
  timeline bigint NOT NULL,
  begin_lsn pg_lsn NOT NULL,
  end_lsn pg_lsn NOT NULL,
  -- 0: not known.
  from_us bigint NOT NULL,
  until_us bigint NOT NULL,
  survivor bigint NOT NULL,
  PRIMARY KEY (tenant_id, round, partition_group, timeline, begin_lsn),
  FOREIGN KEY (tenant_id, round, partition_group) REFERENCES holdfast.round_groups
);

-- One row per stretch that only RESTORE ... TIMELINE = timeline reaches. Nothing in it was acknowledged before from_time.
CREATE VIEW oceanbase.cdb_ob_abandoned_log AS
SELECT a.tenant_id, r.tenant_name, a.round AS log_archive_round, a.partition_group, a.timeline,
  a.begin_lsn::text AS begin_lsn, holdfast.lsn_number(a.begin_lsn) AS begin_lsn_number,
  a.end_lsn::text AS end_lsn, holdfast.lsn_number(a.end_lsn) AS end_lsn_number,
  (a.end_lsn - a.begin_lsn)::bigint AS bytes,
  holdfast.time_of(a.from_us) AS from_time, holdfast.time_of(a.until_us) AS until_time,
  a.survivor AS surviving_timeline,
  format('restored only by RESTORE ... TIMELINE = %s', a.timeline) AS comment
FROM holdfast.abandoned_log a
JOIN holdfast.rounds r ON r.tenant_id = a.tenant_id AND r.round = a.round;

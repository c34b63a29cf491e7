-- Holes of the archived log, by partition group; sets whose files are gone; and what the archiver sees of its server. The
-- views that show them are in 010-groups.sql.

ALTER TABLE holdfast.round_groups
  -- 0: no hole. The rest says nothing then.
  ADD COLUMN hole_timeline bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_begin pg_lsn,
  -- Null: where the log goes on is not known.
  ADD COLUMN hole_end pg_lsn,
  ADD COLUMN hole_begin_us bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_end_us bigint NOT NULL DEFAULT 0,
  ADD COLUMN hole_reason text NOT NULL DEFAULT '',
  ADD COLUMN slot_retained_bytes bigint NOT NULL DEFAULT 0,
  -- On the disk of the server's log; 0: not known.
  ADD COLUMN wal_free_bytes bigint NOT NULL DEFAULT 0;

ALTER TABLE holdfast.backup_sets DROP CONSTRAINT backup_sets_file_status_check;
ALTER TABLE holdfast.backup_sets ADD CONSTRAINT backup_sets_file_status_check
  CHECK (file_status IN ('INCOMPLETE', 'AVAILABLE', 'BROKEN'));

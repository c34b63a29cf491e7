-- What someone should know while a round runs: destinations that are away, what servers keep for slots and what is wrong
-- with that, what an agent that is lost said last, and slots that are still to be dropped.

ALTER TABLE holdfast.instances
  -- As the server shows them; empty: not known.
  ADD COLUMN max_slot_wal_keep_size text NOT NULL DEFAULT '',
  ADD COLUMN idle_slot_timeout text NOT NULL DEFAULT '',
  -- What must be changed on the server, so that it keeps the log as the tenant's parameters want it; empty: nothing.
  ADD COLUMN advice text NOT NULL DEFAULT '';

ALTER TABLE holdfast.round_groups
  -- Since when the archiver cannot work at the destination; 0: it can, as far as is known.
  ADD COLUMN destination_away_us bigint NOT NULL DEFAULT 0,
  -- Its agent is lost, and the server may have given up log since: told once, until the archiver reports again.
  ADD COLUMN overdue boolean NOT NULL DEFAULT false;

-- Slots of tenants that were dropped, until the agent has dropped them.
CREATE TABLE holdfast.owed_slots (
  server_id bigint NOT NULL REFERENCES holdfast.servers,
  instance text NOT NULL,
  slot_name text NOT NULL,
  since_us bigint NOT NULL,
  PRIMARY KEY (server_id, instance, slot_name)
);

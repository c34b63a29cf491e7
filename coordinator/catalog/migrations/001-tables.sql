-- The coordinator's durable state. Times are microseconds since 1970-01-01 UTC (0: never); positions are pg_lsn.
-- Only coordinator/catalog/ writes to these tables; users read the views of schema oceanbase (002).

CREATE TABLE holdfast.deployment (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  deployment_uuid text NOT NULL,
  cluster_name text NOT NULL,
  cluster_id bigint NOT NULL
);

-- The leading coordinator. Every writing transaction begins by checking its epoch here.
CREATE TABLE holdfast.leadership (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  epoch bigint NOT NULL,
  holder text NOT NULL,
  since_us bigint NOT NULL
);
INSERT INTO holdfast.leadership (epoch, holder, since_us) VALUES (0, '', 0);

CREATE TABLE holdfast.tenants (
  tenant_id bigint PRIMARY KEY,
  tenant_name text NOT NULL,
  status text NOT NULL CHECK (status IN ('NORMAL', 'RESTORING', 'DROPPED')),
  created_us bigint NOT NULL,
  dropped_us bigint NOT NULL DEFAULT 0,
  restored_by_job bigint
);
CREATE UNIQUE INDEX tenants_name ON holdfast.tenants (tenant_name) WHERE status <> 'DROPPED';

CREATE TABLE holdfast.partition_groups (
  tenant_id bigint NOT NULL REFERENCES holdfast.tenants,
  partition_group text NOT NULL,
  joined_us bigint NOT NULL,
  left_us bigint NOT NULL DEFAULT 0,
  system_identifier numeric(20) NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, partition_group)
);

CREATE TABLE holdfast.servers (
  server_id bigint PRIMARY KEY,
  agent_uuid text NOT NULL UNIQUE,
  ip text NOT NULL,
  port integer NOT NULL,
  zone text NOT NULL,
  version text NOT NULL,
  status text NOT NULL CHECK (status IN ('ACTIVE', 'INACTIVE')),
  attached_us bigint NOT NULL,
  heartbeat_us bigint NOT NULL,
  resident_memory_bytes bigint NOT NULL DEFAULT 0,
  free_disk_bytes bigint NOT NULL DEFAULT 0
);

-- Members, as their agents declare them. Membership is never inferred from a system identifier.
CREATE TABLE holdfast.instances (
  server_id bigint NOT NULL REFERENCES holdfast.servers,
  instance text NOT NULL,
  tenant_id bigint NOT NULL REFERENCES holdfast.tenants,
  partition_group text NOT NULL,
  restored boolean NOT NULL,
  role text NOT NULL DEFAULT 'UNKNOWN' CHECK (role IN ('UNKNOWN', 'PRIMARY', 'STANDBY', 'DOWN')),
  system_identifier numeric(20) NOT NULL DEFAULT 0,
  timeline bigint NOT NULL DEFAULT 0,
  lsn pg_lsn,
  server_version text NOT NULL DEFAULT '',
  postgres_major integer NOT NULL DEFAULT 0,
  host text NOT NULL DEFAULT '',
  port integer NOT NULL DEFAULT 0,
  data_directory text NOT NULL DEFAULT '',
  error text NOT NULL DEFAULT '',
  seen_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (server_id, instance)
);

-- tenant_id 0: the cluster's value. Secrets are stored encrypted, `display` masked.
CREATE TABLE holdfast.parameters (
  name text NOT NULL,
  tenant_id bigint NOT NULL,
  value text NOT NULL,
  display text NOT NULL,
  updated_us bigint NOT NULL,
  PRIMARY KEY (name, tenant_id)
);

CREATE TABLE holdfast.jobs (
  job_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('ARCHIVE', 'BACKUP', 'RESTORE', 'CHECK')),
  tenant_id bigint NOT NULL,
  tenant_name text NOT NULL,
  state text NOT NULL,
  final boolean NOT NULL DEFAULT false,
  spec jsonb NOT NULL,
  description text NOT NULL DEFAULT '',
  created_us bigint NOT NULL,
  ended_us bigint NOT NULL DEFAULT 0,
  deadline_us bigint NOT NULL DEFAULT 0,
  cancel_requested boolean NOT NULL DEFAULT false,
  error_code text NOT NULL DEFAULT '',
  error_message text NOT NULL DEFAULT '',
  error_detail text NOT NULL DEFAULT '',
  error_hint text NOT NULL DEFAULT '',
  comment text NOT NULL DEFAULT ''
);
-- One backup at a time per tenant, one round at a time per tenant, one restore per new name.
CREATE UNIQUE INDEX jobs_one_running ON holdfast.jobs (kind, tenant_name)
  WHERE NOT final AND kind IN ('ARCHIVE', 'BACKUP', 'RESTORE');

CREATE TABLE holdfast.tasks (
  task_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job_id bigint NOT NULL REFERENCES holdfast.jobs,
  kind text NOT NULL CHECK (kind IN ('ARCHIVE', 'BACKUP', 'RESTORE', 'CHECK')),
  tenant_id bigint NOT NULL,
  partition_group text NOT NULL,
  state text NOT NULL CHECK (state IN ('PENDING', 'RUNNING', 'CANCELLING', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
  attempt integer NOT NULL DEFAULT 0,
  failures integer NOT NULL DEFAULT 0,
  server_id bigint NOT NULL DEFAULT 0,
  instance text NOT NULL DEFAULT '',
  spec jsonb NOT NULL,
  progress jsonb,
  result jsonb,
  created_us bigint NOT NULL,
  started_us bigint NOT NULL DEFAULT 0,
  ended_us bigint NOT NULL DEFAULT 0,
  progress_us bigint NOT NULL DEFAULT 0,
  not_before_us bigint NOT NULL DEFAULT 0,
  deadline_us bigint NOT NULL DEFAULT 0,
  error_code text NOT NULL DEFAULT '',
  error_message text NOT NULL DEFAULT '',
  error_detail text NOT NULL DEFAULT '',
  error_hint text NOT NULL DEFAULT ''
);
CREATE INDEX tasks_job ON holdfast.tasks (job_id);
CREATE INDEX tasks_live ON holdfast.tasks (state) WHERE state IN ('PENDING', 'RUNNING', 'CANCELLING');

CREATE TABLE holdfast.rounds (
  tenant_id bigint NOT NULL,
  round bigint NOT NULL,
  tenant_name text NOT NULL,
  job_id bigint NOT NULL REFERENCES holdfast.jobs,
  state text NOT NULL CHECK (state IN ('STOP', 'BEGINNING', 'DOING', 'STOPPING', 'INTERRUPTED')),
  destination text NOT NULL,
  display_destination text NOT NULL,
  created_us bigint NOT NULL,
  start_us bigint NOT NULL DEFAULT 0,
  checkpoint_us bigint NOT NULL DEFAULT 0,
  end_us bigint NOT NULL DEFAULT 0,
  reason text NOT NULL DEFAULT '',
  stop_deadline_us bigint NOT NULL DEFAULT 0,
  -- round_end still has to be written at the destination: the debt of a stop with the destination gone.
  end_owed boolean NOT NULL DEFAULT false,
  end_state text NOT NULL DEFAULT '',
  last_error text NOT NULL DEFAULT '',
  PRIMARY KEY (tenant_id, round)
);

CREATE TABLE holdfast.round_groups (
  tenant_id bigint NOT NULL,
  round bigint NOT NULL,
  partition_group text NOT NULL,
  task_id bigint NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  state text NOT NULL DEFAULT 'BEGINNING',
  server_id bigint NOT NULL DEFAULT 0,
  instance text NOT NULL DEFAULT '',
  system_identifier numeric(20) NOT NULL DEFAULT 0,
  segment_size_bytes bigint NOT NULL DEFAULT 0,
  postgres_major integer NOT NULL DEFAULT 0,
  start_timeline bigint NOT NULL DEFAULT 0,
  start_lsn pg_lsn,
  start_us bigint NOT NULL DEFAULT 0,
  checkpoint_timeline bigint NOT NULL DEFAULT 0,
  checkpoint_lsn pg_lsn,
  checkpoint_us bigint NOT NULL DEFAULT 0,
  server_lsn pg_lsn,
  server_us bigint NOT NULL DEFAULT 0,
  -- Bytes of earlier attempts, and of the present one.
  earlier_input_bytes bigint NOT NULL DEFAULT 0,
  earlier_output_bytes bigint NOT NULL DEFAULT 0,
  input_bytes bigint NOT NULL DEFAULT 0,
  output_bytes bigint NOT NULL DEFAULT 0,
  backlog_bytes bigint NOT NULL DEFAULT 0,
  slot_state text NOT NULL DEFAULT '',
  waiting_for text NOT NULL DEFAULT '',
  last_error text NOT NULL DEFAULT '',
  updated_us bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, round, partition_group),
  FOREIGN KEY (tenant_id, round) REFERENCES holdfast.rounds
);

CREATE TABLE holdfast.backup_sets (
  tenant_id bigint NOT NULL,
  backup_set_id bigint NOT NULL,
  full_set_id bigint NOT NULL,
  tenant_name text NOT NULL,
  job_id bigint NOT NULL REFERENCES holdfast.jobs,
  backup_type text NOT NULL CHECK (backup_type IN ('FULL', 'INCREMENTAL')),
  state text NOT NULL CHECK (state IN ('DOING', 'SUCCESS', 'FAILED', 'CANCELLED')),
  file_status text NOT NULL CHECK (file_status IN ('INCOMPLETE', 'AVAILABLE')),
  round bigint NOT NULL,
  epoch bigint NOT NULL,
  destination text NOT NULL,
  display_destination text NOT NULL,
  description text NOT NULL DEFAULT '',
  plus_archivelog boolean NOT NULL DEFAULT false,
  start_us bigint NOT NULL,
  end_us bigint NOT NULL DEFAULT 0,
  -- The earliest instant that the set restores: the latest stop over its partition groups.
  restorable_from_us bigint NOT NULL DEFAULT 0,
  comment text NOT NULL DEFAULT '',
  PRIMARY KEY (tenant_id, backup_set_id)
);

CREATE TABLE holdfast.set_groups (
  tenant_id bigint NOT NULL,
  backup_set_id bigint NOT NULL,
  partition_group text NOT NULL,
  task_id bigint NOT NULL,
  timeline bigint NOT NULL DEFAULT 0,
  start_lsn pg_lsn,
  stop_lsn pg_lsn,
  stop_us bigint NOT NULL DEFAULT 0,
  macroblock_count bigint NOT NULL DEFAULT 0,
  file_count bigint NOT NULL DEFAULT 0,
  input_bytes bigint NOT NULL DEFAULT 0,
  output_bytes bigint NOT NULL DEFAULT 0,
  page_failures bigint NOT NULL DEFAULT 0,
  server_version text NOT NULL DEFAULT '',
  PRIMARY KEY (tenant_id, backup_set_id, partition_group),
  FOREIGN KEY (tenant_id, backup_set_id) REFERENCES holdfast.backup_sets
);

CREATE TABLE holdfast.restores (
  job_id bigint PRIMARY KEY REFERENCES holdfast.jobs,
  tenant_id bigint NOT NULL,
  tenant_name text NOT NULL,
  backup_tenant_id bigint NOT NULL,
  backup_tenant_name text NOT NULL,
  backup_cluster_name text NOT NULL,
  backup_cluster_id bigint NOT NULL,
  backup_set_id bigint NOT NULL,
  round bigint NOT NULL,
  display_source text NOT NULL,
  target text NOT NULL,
  target_us bigint NOT NULL DEFAULT 0,
  pool text NOT NULL,
  -- What was reached, known at the end: one object per partition group.
  result jsonb
);

CREATE TABLE holdfast.resource_units (
  name text PRIMARY KEY,
  max_memory_bytes bigint NOT NULL DEFAULT 0,
  min_memory_bytes bigint NOT NULL DEFAULT 0,
  max_session_num integer NOT NULL DEFAULT 0,
  max_cpu double precision NOT NULL DEFAULT 0,
  min_cpu double precision NOT NULL DEFAULT 0,
  max_iops bigint NOT NULL DEFAULT 0,
  min_iops bigint NOT NULL DEFAULT 0,
  max_disk_bytes bigint NOT NULL DEFAULT 0,
  created_us bigint NOT NULL
);

CREATE TABLE holdfast.resource_pools (
  name text PRIMARY KEY,
  unit text NOT NULL REFERENCES holdfast.resource_units,
  unit_num integer NOT NULL,
  zone_list jsonb NOT NULL,
  created_us bigint NOT NULL
);

CREATE TABLE holdfast.events (
  event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  time_us bigint NOT NULL,
  module text NOT NULL,
  event text NOT NULL,
  severity text NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'ERROR')),
  tenant_id bigint NOT NULL,
  tenant_name text NOT NULL,
  message text NOT NULL,
  facts jsonb NOT NULL
);

-- Instances that an agent only watches, and what every instance is found to be. A copy of a member (a restored one, a
-- drill, a developer's clone) has the member's system identifier: it is shown, and never archived.

ALTER TABLE holdfast.instances
  -- Null: declared for no tenant.
  ALTER COLUMN tenant_id DROP NOT NULL,
  ADD COLUMN membership text NOT NULL DEFAULT 'MEMBER' CHECK (membership IN ('MEMBER', 'UNASSIGNED', 'UNASSIGNED CLONE')),
  -- `tenant.partition group` whose system identifier it has.
  ADD COLUMN clone_of text NOT NULL DEFAULT '';

CREATE OR REPLACE VIEW oceanbase.dba_ob_servers AS
SELECT s.server_id AS id, s.ip AS svr_ip, s.port AS svr_port, s.zone, s.status, s.version AS build_version,
  holdfast.time_of(s.attached_us) AS start_service_time, holdfast.time_of(s.heartbeat_us) AS last_heartbeat_time,
  s.resident_memory_bytes, s.free_disk_bytes, holdfast.display_bytes(s.free_disk_bytes) AS free_disk_display,
  (SELECT count(*) FROM holdfast.instances i WHERE i.server_id = s.server_id) AS instance_count, s.agent_uuid,
  (SELECT string_agg(format('UNASSIGNED CLONE %s of %s', i.instance, i.clone_of), ', ' ORDER BY i.instance)
    FROM holdfast.instances i WHERE i.server_id = s.server_id AND i.membership = 'UNASSIGNED CLONE') AS unassigned_clones
FROM holdfast.servers s;

-- One row per instance: who is the leader, where, and how it is. Those that belong to no group have no tenant.
CREATE OR REPLACE VIEW oceanbase.dba_ob_partition_groups AS
SELECT t.tenant_id, t.tenant_name, g.partition_group, i.server_id, s.ip AS svr_ip, s.port AS svr_port, s.zone, i.instance,
  CASE i.role WHEN 'PRIMARY' THEN CASE i.membership WHEN 'MEMBER' THEN 'LEADER' ELSE 'PRIMARY' END
    WHEN 'STANDBY' THEN CASE i.membership WHEN 'MEMBER' THEN 'FOLLOWER' ELSE 'STANDBY' END ELSE i.role END AS role,
  CASE WHEN i.system_identifier > 0 THEN i.system_identifier END AS system_identifier,
  i.timeline, i.lsn::text AS lsn, holdfast.lsn_number(i.lsn) AS lsn_number, i.server_version, i.host, i.port,
  i.data_directory, i.restored, nullif(i.error, '') AS error, holdfast.time_of(i.seen_us) AS last_seen_time,
  holdfast.time_of(g.joined_us) AS join_time, holdfast.time_of(g.left_us) AS leave_time,
  nullif(i.max_slot_wal_keep_size, '') AS max_slot_wal_keep_size,
  nullif(i.idle_slot_timeout, '') AS idle_replication_slot_timeout,
  nullif(i.advice, '') AS advice,
  i.membership, nullif(i.clone_of, '') AS clone_of
FROM (holdfast.partition_groups g
  JOIN holdfast.tenants t ON t.tenant_id = g.tenant_id AND t.status <> 'DROPPED')
FULL JOIN holdfast.instances i ON i.tenant_id = g.tenant_id AND i.partition_group = g.partition_group
LEFT JOIN holdfast.servers s ON s.server_id = i.server_id;

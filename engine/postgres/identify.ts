/** Who a server is and how far its log has come, read over SQL. */
import type pg from 'pg';
import { assert, defined } from '../../foundation/assert.ts';
import { type Lsn, parseLsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import type { InstanceConfig, InstanceIdentity } from '../engine.ts';

/** One row; the control file is re-read by the server for each of its functions. The data directory needs pg_read_all_settings. */
const IDENTITY = `
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       current_setting('server_version') AS server_version,
       current_setting('server_version_num')::int AS version_number,
       pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery()
            THEN greatest((SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                          (SELECT timeline_id FROM pg_control_checkpoint()))::text
            ELSE pg_walfile_name(pg_current_wal_insert_lsn()) END AS timeline,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS clock_us,
       CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0')
            ELSE pg_current_wal_insert_lsn() END::text AS lsn,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory,
       init.bytes_per_wal_segment AS segment_size_bytes,
       init.database_block_size AS block_size_bytes,
       init.blocks_per_segment AS relation_segment_pages,
       init.wal_block_size AS wal_block_size_bytes,
       init.data_page_checksum_version AS page_checksum_version,
       current_setting('max_slot_wal_keep_size') AS max_slot_wal_keep_size,
       coalesce(current_setting('idle_replication_slot_timeout', true), '0') AS idle_slot_timeout
  FROM pg_control_init() AS init`;

type IdentityRow = {
  readonly system_identifier: string;
  readonly server_version: string;
  readonly version_number: number;
  readonly standby: boolean;
  readonly timeline: string;
  readonly clock_us: string;
  readonly lsn: string;
  readonly data_directory: string | null;
  readonly segment_size_bytes: number;
  readonly block_size_bytes: number;
  readonly relation_segment_pages: number;
  readonly wal_block_size_bytes: number;
  readonly page_checksum_version: number;
  readonly max_slot_wal_keep_size: string;
  readonly idle_slot_timeout: string;
};

export type Identity = InstanceIdentity & { readonly walBlockSizeBytes: number };

/** The data directory is empty when neither the configuration names it nor the role may read the setting. */
export async function readIdentity(client: pg.Client, config: InstanceConfig): Promise<Identity> {
  const { rows } = await client.query<IdentityRow>(IDENTITY);
  const row = defined(rows[0], 'the identity row');
  return {
    systemIdentifier: BigInt(row.system_identifier),
    serverVersion: row.server_version,
    major: Math.floor(row.version_number / 10_000),
    role: row.standby ? 'standby' : 'primary',
    timeline: parseTimelineText(row.timeline),
    lsn: parseLsn(row.lsn),
    clockUs: BigInt(row.clock_us),
    dataDirectory: config.dataDirectory ?? row.data_directory ?? '',
    segmentSizeBytes: row.segment_size_bytes,
    blockSizeBytes: row.block_size_bytes,
    relationSegmentPages: row.relation_segment_pages,
    walBlockSizeBytes: row.wal_block_size_bytes,
    pageChecksumVersion: row.page_checksum_version,
    maxSlotWalKeepSize: row.max_slot_wal_keep_size,
    idleSlotTimeout: row.idle_slot_timeout,
  };
}

export type InsertPosition = { readonly lsn: Lsn; readonly clockUs: bigint; readonly timeline: Timeline };

/**
 * The clock stands before the position in the target list, which PostgreSQL evaluates from left to right: what was
 * acknowledged before that clock lies before that position. Only on a primary.
 */
const INSERT_POSITION = `
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint::text AS clock_us,
       pg_current_wal_insert_lsn()::text AS lsn,
       pg_walfile_name(pg_current_wal_insert_lsn()) AS segment`;

export async function readInsertPosition(
  client: pg.Client,
  segmentSizeBytes: number,
  walBlockSizeBytes: number,
): Promise<InsertPosition> {
  const { rows } = await client.query<{ clock_us: string; lsn: string; segment: string }>(INSERT_POSITION);
  const row = defined(rows[0], 'the insert position row');
  return {
    lsn: beforePageHeader(parseLsn(row.lsn), segmentSizeBytes, walBlockSizeBytes),
    clockUs: BigInt(row.clock_us),
    timeline: parseTimelineText(row.segment),
  };
}

const LONG_PAGE_HEADER_BYTES = 40n;
const SHORT_PAGE_HEADER_BYTES = 24n;

/**
 * When all records end at a page's border the server names the insert position behind the next page's header
 * (XLogBytePosToRecPtr), which does not exist yet and is not streamed. The border is what will be durable.
 */
export function beforePageHeader(lsn: Lsn, segmentSizeBytes: number, walBlockSizeBytes: number): Lsn {
  const header =
    lsn % BigInt(segmentSizeBytes) < BigInt(walBlockSizeBytes)
      ? LONG_PAGE_HEADER_BYTES
      : SHORT_PAGE_HEADER_BYTES;
  return lsn % BigInt(walBlockSizeBytes) === header ? toLsn(lsn - header) : lsn;
}

/** A decimal timeline, or a WAL file's name, which begins with it in hexadecimal. */
function parseTimelineText(text: string): Timeline {
  assert(text !== '', 'the server names its timeline');
  return toTimeline(text.length === 24 ? Number.parseInt(text.slice(0, 8), 16) : Number(text));
}

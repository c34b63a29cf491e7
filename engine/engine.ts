/**
 * All that agent code may assume about a database. Positions (timeline + LSN), not clocks, are the coordinates.
 * Layout, checksums of stored blocks, compression, throttling, retries, retention and state machines belong to the
 * core and never to an engine. PostgreSQL is the first engine (engine/postgres/engine.ts makes one).
 */
import type { Lsn, Timeline } from '../foundation/lsn.ts';
import type { DatabaseId, ForkId, RelationId } from '../storage-layout/clog/change-map.ts';

export type LogPoint = { readonly timeline: Timeline; readonly lsn: Lsn };

/** How to reach one running instance on this node, from the agent's configuration. */
export type InstanceConfig = {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  readonly database: string;
  /** Reads the password when it is needed; undefined: none. Never logged. */
  readonly password: (() => Promise<string>) | undefined;
  /** Overrides what the server reports, for a data directory seen under another path. */
  readonly dataDirectory: string | undefined;
};

export type InstanceIdentity = {
  readonly systemIdentifier: bigint;
  readonly serverVersion: string;
  readonly major: number;
  readonly role: 'primary' | 'standby';
  readonly timeline: Timeline;
  /** End of the log now: insert position on a primary, replayed position on a standby. */
  readonly lsn: Lsn;
  /** The server's clock, microseconds since 1970. */
  readonly clockUs: bigint;
  readonly dataDirectory: string;
  readonly segmentSizeBytes: number;
  readonly blockSizeBytes: number;
  /** A relation's file has so many pages; then another begins. */
  readonly relationSegmentPages: number;
  /** 0: page checksums are off. */
  readonly pageChecksumVersion: number;
  /** What the server keeps for slots, as it shows the settings. */
  readonly maxSlotWalKeepSize: string;
  /** `0` where the server knows no such timeout. */
  readonly idleSlotTimeout: string;
};

export type CheckItem = {
  readonly name: string;
  readonly passed: boolean;
  readonly found: string;
  readonly wanted: string;
  /** The statement or setting that mends it. */
  readonly fix: string;
};

export type FileKind = 'main' | 'fsm' | 'vm' | 'init' | 'other' | 'control' | 'external';

/** One file of a data directory as found by the listing. */
export type DataFile = {
  /** Relative to the data directory, '/'-separated; through `pg_tblspc/<oid>/…` for tablespaces; `external/<base name>` for files outside. */
  readonly path: string;
  /** Where to open it. */
  readonly absolutePath: string;
  readonly kind: FileKind;
  readonly sizeBytes: number;
  readonly mode: number;
  readonly modifiedMs: number;
};

export type DataListing = {
  readonly files: readonly DataFile[];
  /** Every directory to recreate, parents first, with its mode; those whose contents are left out included. */
  readonly directories: readonly { readonly path: string; readonly mode: number }[];
  readonly tablespaces: readonly TablespaceInfo[];
};

export type TablespaceInfo = {
  readonly oid: number;
  readonly name: string;
  readonly location: string;
  readonly inPlace: boolean;
};

export type BackupStart = {
  readonly start: LogPoint;
  readonly checkpoint: LogPoint;
  readonly startUs: bigint;
  readonly fromStandby: boolean;
};

export type BackupStop = {
  readonly stop: LogPoint;
  /** Where recovery begins, as the label says. */
  readonly checkpoint: LogPoint;
  /** The server's clock just after the stop. */
  readonly stopUs: bigint;
  /** backup_label, byte for byte as the stop function gave it. */
  readonly label: Buffer;
  /** tablespace_map, byte for byte; empty when there is none. */
  readonly tablespaceMap: Buffer;
};

export type DatabaseFacts = {
  readonly databases: readonly { readonly oid: number; readonly name: string }[];
  /** name, value and file of every setting that a restore or a person needs; secrets left out. */
  readonly settings: readonly {
    readonly name: string;
    readonly value: string;
    readonly sourceFile: string;
  }[];
  readonly catalogVersion: number;
};

/** An open, non-exclusive backup: it ends with `stop`, or is given up when it is disposed. */
export interface BackupWindow extends AsyncDisposable {
  readonly started: BackupStart;
  stop(signal: AbortSignal): Promise<BackupStop>;
  /** Rejects as soon as the session that holds the backup open is lost. */
  readonly lost: Promise<never>;
}

/** A page check's verdict on one block of an extent. */
export type SuspectPage = { readonly pageNo: number; readonly pageLsn: Lsn };

export type ExtentFacts = {
  /** Newest page LSN in the extent; 0 when no page holds one. */
  readonly newestPageLsn: Lsn;
  /** Pages whose checksum is wrong. Whether that is a torn page or damage is for the caller to find out (correctness 5). */
  readonly suspects: readonly SuspectPage[];
};

/** Checks the pages of `extent`, whose first page is block `firstBlock` of its relation fork (counted over all segments). Pure. */
export type CheckExtent = (extent: Uint8Array, firstBlock: number, checksums: boolean) => ExtentFacts;

/** Opened replication stream: raw log, in order, from the position asked for. */
export interface LogStream extends AsyncDisposable {
  readonly timeline: Timeline;
  /** Chunks as the server sends them, each directly behind the one before. Ends when the server ends this timeline or closes. */
  [Symbol.asyncIterator](): AsyncIterator<LogChunk>;
  /** Tells the server what is durable. Sent at once, and again with every keep-alive the server asks for. */
  acknowledge(durable: Lsn): void;
}

export type LogChunk = {
  /** Position of the first byte of `data`. */
  readonly begin: Lsn;
  /** Good until the next chunk is asked for. */
  readonly data: Buffer;
  /** End of the log on the server, and its clock in microseconds, as the server said in this message. */
  readonly serverEnd: Lsn;
  readonly serverClockUs: bigint;
};

export type SlotState = {
  readonly exists: boolean;
  readonly active: boolean;
  readonly restartLsn: Lsn | undefined;
  /** reserved, extended, unreserved, lost; empty when it does not exist. */
  readonly walStatus: string;
  readonly invalidationReason: string;
  /** Log that the server keeps because of the slot; 0 when it reserves none. */
  readonly retainedBytes: bigint;
  /** Commits on the server wait for the stream that holds the slot. */
  readonly synchronous: boolean;
};

/** One instance, connected. Methods throw SERVER_UNREACHABLE when it cannot be reached (may be retried). */
export interface Instance extends AsyncDisposable {
  readonly config: InstanceConfig;
  identify(signal: AbortSignal): Promise<InstanceIdentity>;
  /** What must hold before archiving or a backup; every item, passed or not. */
  precheck(purpose: 'archive' | 'standby' | 'backup', signal: AbortSignal): Promise<readonly CheckItem[]>;
  facts(signal: AbortSignal): Promise<DatabaseFacts>;
  /** Insert position and server clock, read together: what was acknowledged before `clockUs` lies before `lsn`. */
  insertPosition(
    signal: AbortSignal,
  ): Promise<{ readonly lsn: Lsn; readonly clockUs: bigint; readonly timeline: Timeline }>;
  slotState(slotName: string, signal: AbortSignal): Promise<SlotState>;
  /** Makes the slot if it is not there or was invalidated, and reserves the log from now on. Returns where that begins. */
  ensureSlot(slotName: string, signal: AbortSignal): Promise<Lsn>;
  dropSlot(slotName: string, signal: AbortSignal): Promise<void>;
  /** Drops the slot unless it is in use. True when there is none then. */
  dropUnusedSlot(slotName: string, signal: AbortSignal): Promise<boolean>;
  /** LOG_GAP when the server no longer has `from`. */
  openLogStream(slotName: string, from: LogPoint, signal: AbortSignal): Promise<LogStream>;
  /** Whether the server can still give the log from there on. Throws LOG_CONFLICT when it is not in its history. */
  hasLog(from: LogPoint, signal: AbortSignal): Promise<boolean>;
  /** Free bytes on the disk of the server's log, as seen from this node; undefined when it cannot be seen. */
  freeLogDiskBytes(signal: AbortSignal): Promise<bigint | undefined>;
  /**
   * On a standby: makes the slot if it is not there, or was invalidated, and lets go of the log before `archived`, as far
   * as it was replayed. Does nothing on a primary, nor with a slot that is in use.
   */
  keepSlotInStep(slotName: string, archived: Lsn, signal: AbortSignal): Promise<void>;
  /** The timeline's history file; undefined for timeline 1. */
  timelineHistory(timeline: Timeline, signal: AbortSignal): Promise<Buffer | undefined>;
  beginBackup(label: string, signal: AbortSignal): Promise<BackupWindow>;
  /** The data directory's files after the backup began, minus what a backup leaves out (reference 5.3), control file included. */
  listFiles(signal: AbortSignal): Promise<DataListing>;
  /** How long a small commit takes now, durable on the server's own disk, in milliseconds. On a primary. */
  measureCommitMs(signal: AbortSignal): Promise<number>;
  /** The control file, re-read until its checksum holds. */
  readControlFile(signal: AbortSignal): Promise<Buffer>;
}

// ---- reading the log --------------------------------------------------------------------------------------------

/** Something in the log that a person or a target may name. `begin` is where its record starts, `end` where the next may start. */
export type LogEvent = { readonly begin: Lsn; readonly end: Lsn } & (
  | {
      readonly kind: 'commit' | 'abort';
      readonly xid: number;
      readonly timeUs: bigint;
      /** Of its subtransactions; left out when there are none. */
      readonly subxids?: readonly number[];
    }
  | { readonly kind: 'restorePoint'; readonly name: string; readonly timeUs: bigint }
  | { readonly kind: 'checkpoint'; readonly redo: Lsn; readonly timeUs: bigint; readonly shutdown: boolean }
  | {
      readonly kind: 'endOfRecovery';
      readonly timeline: Timeline;
      readonly previousTimeline: Timeline;
      readonly timeUs: bigint;
    }
  | { readonly kind: 'walLevel'; readonly walLevel: number }
  | { readonly kind: 'createTablespace'; readonly oid: number; readonly location: string }
  | { readonly kind: 'switch' }
);

/**
 * Reads one timeline's log as it is pushed, finds record borders, checks page headers and record checksums, and
 * collects events. Positions are byte positions as in the server; a record belongs to where it ENDS.
 */
export interface LogInspector {
  /**
   * The next bytes; `begin` must be the end of the previous push. Throws WAL_UNREADABLE (bad page header, bad record
   * checksum, unknown page magic: names position and version), SYSTEM_IDENTIFIER_MISMATCH.
   */
  push(begin: Lsn, data: Uint8Array): void;
  /** End of everything pushed. */
  readonly position: Lsn;
  /** End of the last whole record. */
  readonly endOfRecords: Lsn;
  /** Where the unfinished last record began; undefined when `position` is a record border (or only padding follows). */
  readonly unfinishedRecordBegin: Lsn | undefined;
  /** Events of the records that ended since the last call. */
  takeEvents(): readonly LogEvent[];
  /** What the records that ended since the last call change; nothing unless `options.collectTouches`. */
  takeTouches(): LogTouches;
}

/** What records change in relation files, for a change map. */
export type LogTouches = {
  /** Five numbers per page, in the order of the log: tablespace, database, relation, fork, block. */
  readonly pages: Uint32Array;
  readonly changes: readonly RelationChange[];
};

/** What a record changes beyond the pages it refers to. */
export type RelationChange =
  | { readonly kind: 'create'; readonly fork: ForkId }
  | { readonly kind: 'truncate'; readonly fork: ForkId; readonly blocksLeft: number }
  | { readonly kind: 'dropRelation'; readonly relation: RelationId }
  | { readonly kind: 'createDatabase' | 'dropDatabase'; readonly database: DatabaseId }
  | { readonly kind: 'walLevelMinimal' }
  /** Flagged special, and not known here: what it changes cannot be told. */
  | { readonly kind: 'unknownSpecial'; readonly at: Lsn; readonly rmgr: number; readonly info: number };

export type LogInspectorOptions = {
  readonly segmentSizeBytes: number;
  readonly timeline: Timeline;
  /** Checked against the long page headers, when given. */
  readonly systemIdentifier: bigint | undefined;
  /**
   * Where the first push will begin: a record's beginning, or a segment's (then a continued record at its head is
   * skipped).
   */
  readonly begin: Lsn;
  /** The server's major version: needed where `begin` lies inside a page, as it may where a timeline forks. */
  readonly major?: number | undefined;
  /** Default false: whoever asks for touches must take them, or they gather. */
  readonly collectTouches?: boolean;
  /** Default true. False for log whose records were checked when it was archived, and whose bytes have been checked since. */
  readonly checksRecords?: boolean;
};

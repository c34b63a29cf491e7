/**
 * A PostgreSQL instance behind the engine's interface. It holds one SQL session, made anew when it was lost; log streams
 * and backup windows have sessions of their own, which belong to them.
 */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { formatLsn, type Lsn, type Timeline } from '../../foundation/lsn.ts';
import type {
  BackupWindow,
  CheckItem,
  DatabaseFacts,
  DataListing,
  Instance,
  InstanceConfig,
  InstanceIdentity,
  LogPoint,
  LogStream,
  SlotState,
} from '../engine.ts';
import { beginBackup } from './backup-window.ts';
import { closeClient, connectClient, withClient } from './connection.ts';
import { readControlFile } from './control-file.ts';
import { readFacts } from './facts.ts';
import { type Identity, type InsertPosition, readIdentity, readInsertPosition } from './identify.ts';
import { listFiles, readListingInput } from './listing.ts';
import { judge, readPrecheckFacts } from './precheck.ts';
import { openReplicationStream } from './replication-stream.ts';
import {
  checkSlotName,
  dropPhysicalSlot,
  dropUnusedSlot,
  ensurePhysicalSlot,
  keepSlotInStep,
  readSlot,
} from './slots.ts';

const HAS_LOG_LIMIT_MS = 10_000;
const HAS_LOG_LISTEN_MS = 1000;

export class PostgresInstance implements Instance {
  readonly config: InstanceConfig;
  #session: Promise<pg.Client> | undefined;
  /** What does not change while a server runs: version, sizes, data directory. Read once. */
  #identity: Identity | undefined;

  constructor(config: InstanceConfig) {
    this.config = config;
  }

  async identify(signal: AbortSignal): Promise<InstanceIdentity> {
    this.#identity = await this.#run('identify the server', signal, (client) =>
      readIdentity(client, this.config),
    );
    return this.#identity;
  }

  async precheck(
    purpose: 'archive' | 'standby' | 'backup',
    signal: AbortSignal,
  ): Promise<readonly CheckItem[]> {
    const facts = await this.#run('check settings', signal, (client) =>
      readPrecheckFacts(client, this.config, signal),
    );
    return judge(purpose, facts);
  }

  async measureCommitMs(signal: AbortSignal): Promise<number> {
    return await this.#run('measure a commit', signal, measureCommit);
  }

  async facts(signal: AbortSignal): Promise<DatabaseFacts> {
    return await this.#run('read databases and settings', signal, (client) => readFacts(client, signal));
  }

  async insertPosition(signal: AbortSignal): Promise<InsertPosition> {
    const { segmentSizeBytes, walBlockSizeBytes } = await this.#known(signal);
    return await this.#run('read the insert position', signal, (client) =>
      readInsertPosition(client, segmentSizeBytes, walBlockSizeBytes),
    );
  }

  async slotState(slotName: string, signal: AbortSignal): Promise<SlotState> {
    const { major } = await this.#known(signal);
    return await this.#run(`read replication slot "${slotName}"`, signal, (client) =>
      readSlot(client, major, slotName),
    );
  }

  async ensureSlot(slotName: string, signal: AbortSignal): Promise<Lsn> {
    const { major } = await this.#known(signal);
    return await this.#run(`make replication slot "${slotName}"`, signal, (client) =>
      ensurePhysicalSlot(client, major, slotName),
    );
  }

  async dropSlot(slotName: string, signal: AbortSignal): Promise<void> {
    await this.#run(`drop replication slot "${slotName}"`, signal, (client) =>
      dropPhysicalSlot(client, slotName),
    );
  }

  async dropUnusedSlot(slotName: string, signal: AbortSignal): Promise<boolean> {
    return await this.#run(`drop replication slot "${slotName}"`, signal, (client) =>
      dropUnusedSlot(client, slotName),
    );
  }

  async keepSlotInStep(slotName: string, archived: Lsn, signal: AbortSignal): Promise<void> {
    const { major } = await this.#known(signal);
    await this.#run(`keep replication slot "${slotName}"`, signal, (client) =>
      keepSlotInStep(client, major, slotName, archived),
    );
  }

  async openLogStream(slotName: string, from: LogPoint, signal: AbortSignal): Promise<LogStream> {
    checkSlotName(slotName);
    const { segmentSizeBytes } = await this.#known(signal);
    if (from.lsn < BigInt(segmentSizeBytes)) {
      throw new HoldfastError('INVALID_ARGUMENT', `no log before the first segment: ${formatLsn(from.lsn)}`);
    }
    return await openReplicationStream(this.config, slotName, from, signal);
  }

  /** A server says that log is gone only when it comes to read it: the stream is opened and listened to for a moment. */
  async hasLog(from: LogPoint, signal: AbortSignal): Promise<boolean> {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(HAS_LOG_LIMIT_MS)]);
    try {
      await using stream = await openReplicationStream(this.config, undefined, from, limit);
      const first = stream[Symbol.asyncIterator]().next();
      first.catch(() => undefined); // it may fail after we have stopped listening
      await Promise.race([first, sleep(HAS_LOG_LISTEN_MS, undefined, { ref: false })]);
      return true;
    } catch (error) {
      if (isError(error, 'LOG_GAP')) return false;
      throw error;
    }
  }

  async freeLogDiskBytes(signal: AbortSignal): Promise<bigint | undefined> {
    const { dataDirectory } = await this.#known(signal);
    if (dataDirectory === '') return undefined;
    try {
      const { bavail, bsize } = await statfs(join(dataDirectory, 'pg_wal'), { bigint: true });
      return bavail * bsize;
    } catch {
      return undefined; // not this node's, or not ours to look into
    }
  }

  async timelineHistory(timeline: Timeline, signal: AbortSignal): Promise<Buffer | undefined> {
    if (timeline === 1) return undefined;
    const client = await connectClient(this.config, 'replication', signal);
    try {
      return await withClient(client, this.config, `read the history of timeline ${timeline}`, signal, (it) =>
        readTimelineHistory(it, timeline),
      );
    } finally {
      await closeClient(client);
    }
  }

  async beginBackup(label: string, signal: AbortSignal): Promise<BackupWindow> {
    const { major } = await this.#known(signal);
    return await beginBackup((it) => connectClient(this.config, 'sql', it), major, label, signal);
  }

  async listFiles(signal: AbortSignal): Promise<DataListing> {
    const { major } = await this.#known(signal);
    const dataDirectory = await this.#dataDirectory(signal);
    const input = await this.#run('list tablespaces and configuration files', signal, (client) =>
      readListingInput(client, dataDirectory, major, signal),
    );
    return await listFiles(input, signal);
  }

  async readControlFile(signal: AbortSignal): Promise<Buffer> {
    return await readControlFile(await this.#dataDirectory(signal), signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    if (session === undefined) return;
    try {
      await closeClient(await session);
    } catch {
      // it never came up, and whoever asked for it was told
    }
  }

  async #known(signal: AbortSignal): Promise<Identity> {
    if (this.#identity === undefined) await this.identify(signal);
    return defined(this.#identity, 'the identity just read');
  }

  async #dataDirectory(signal: AbortSignal): Promise<string> {
    const { dataDirectory } = await this.#known(signal);
    if (dataDirectory !== '') return dataDirectory;
    throw new HoldfastError('PRIVILEGE', `instance "${this.config.name}": its data directory is not known`, {
      hint: `GRANT pg_read_all_settings TO ${this.config.user}, or set data_directory of the instance in the agent's configuration.`,
    });
  }

  async #run<T>(doing: string, signal: AbortSignal, work: (client: pg.Client) => Promise<T>): Promise<T> {
    const client = await this.#connected(signal);
    return await withClient(client, this.config, doing, signal, work);
  }

  async #connected(signal: AbortSignal): Promise<pg.Client> {
    if (this.#session !== undefined) return await this.#session;
    const session = this.#connect(signal);
    this.#session = session;
    return await session;
  }

  async #connect(signal: AbortSignal): Promise<pg.Client> {
    const forget = () => {
      this.#session = undefined;
    };
    try {
      const client = await connectClient(this.config, 'sql', signal);
      client.once('end', forget);
      return client;
    } catch (error) {
      forget();
      throw error;
    }
  }
}

/** A commit that waits for the server's own disk, and for no standby. It writes some 150 bytes of log, and no row. */
async function measureCommit(client: pg.Client): Promise<number> {
  await client.query(
    "BEGIN; SET LOCAL synchronous_commit = local; SELECT pg_logical_emit_message(true, 'holdfast', '')",
  );
  const begunMs = performance.now();
  await client.query('COMMIT');
  return performance.now() - begunMs;
}

/** TIMELINE_HISTORY answers (filename, content); the content is taken as text whatever type the version gives it. */
async function readTimelineHistory(client: pg.Client, timeline: Timeline): Promise<Buffer> {
  const result = await client.query<{ content: string }>({
    text: `TIMELINE_HISTORY ${timeline}`,
    types: { getTypeParser: () => (text: string) => text },
  });
  return Buffer.from(defined(result.rows[0], 'the timeline history row').content, 'utf8');
}

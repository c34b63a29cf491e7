/**
 * Referees for the WAL reader: PostgreSQL's own readers must find the same records, block references and commit times
 * in the same log, and no page of a data file may have changed without the change map knowing.
 *
 * HOLDFAST_TEST_MAJORS ("15,17") names the versions that get the long workload; unset, these two get it and the other
 * three a short one.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, test } from 'vitest';
import { applyImageBit, compressedImageBits, RecordDecoder } from '../../engine/postgres/wal/blocks.ts';
import { type ChangeMap, ChangeMapCollector } from '../../engine/postgres/wal/change-map.ts';
import { createLogInspector } from '../../engine/postgres/wal/inspector.ts';
import { WalParser, type WalParserOptions } from '../../engine/postgres/wal/parser.ts';
import { rmgrName } from '../../engine/postgres/wal/record.ts';
import { copyRecord, type WalRecord } from '../../engine/postgres/wal/records.ts';
import { findRecordAtOrAfter, findStopBeforeTime } from '../../engine/postgres/wal/search.ts';
import {
  formatLsn,
  type Lsn,
  parseLsn,
  segmentName,
  segmentStart,
  toLsn,
  toTimeline,
} from '../../foundation/lsn.ts';
import type { RelationId } from '../../storage-layout/clog/change-map.ts';
import { createServer, MAJORS, type Major, type TestServer } from '../support/postgres.ts';
import {
  blockText,
  imageBytes,
  parseBlockText,
  parseTransactionText,
  transactionText,
} from '../support/wal-lines.ts';
import {
  RESTORE_POINT,
  runWalWorkload,
  WORKLOAD_SETTINGS,
  type WorkloadFacts,
} from '../support/wal-workload.ts';

const run = promisify(execFile);
const PG_WALDUMP = '/usr/lib/postgresql/15/bin/pg_waldump';
const SEGMENT_BYTES = 16 * 1024 * 1024;
const DATA_PAGE_BYTES = 8192;
const LONG_ROWS = 20_000;
const SHORT_ROWS = 2000;

const named = process.env['HOLDFAST_TEST_MAJORS'];
const long: readonly Major[] = MAJORS.filter((major) =>
  (named ?? '15,17').split(',').includes(String(major)),
);
const short: readonly Major[] = named === undefined ? MAJORS.filter((major) => !long.includes(major)) : [];

type Log = {
  readonly begin: Lsn;
  readonly end: Lsn;
  readonly bytes: Buffer;
  readonly options: WalParserOptions;
  readonly records: readonly WalRecord[];
  readonly changes: ChangeMap;
};

describe.each([
  ...long.map((major) => ({ major, rows: LONG_ROWS })),
  ...short.map((major) => ({ major, rows: SHORT_ROWS })),
])('the WAL of a server of version $major, $rows rows', ({ major, rows }) => {
  test('is read as PostgreSQL reads it', async () => {
    await using server = await createServer({ major, settings: WORKLOAD_SETTINGS });
    const { begin, end, facts } = await writeLog(server, rows);
    const log = await readLog(server, begin, end);
    expect(log.records.length).toBeGreaterThan(rows);

    if (major === 15) await compareWithWaldump(server, log);
    if (major >= 15) await compareWithWalinspect(server, log);
    await comparePagesWithFiles(server, log);
    expectVariety(log);
    expectEntryAtEverySegment(log);
    await expectEventsAndPositions(log, facts);
  });
});

// ---- the log ----------------------------------------------------------------------------------------------------

async function writeLog(
  server: TestServer,
  rows: number,
): Promise<{ begin: Lsn; end: Lsn; facts: WorkloadFacts }> {
  await server.query('SELECT pg_switch_wal()');
  await server.query('CHECKPOINT');
  const from = await endOfRecords(server);
  if (server.major >= 15) await server.query('CREATE EXTENSION pg_walinspect');
  const facts = await runWalWorkload(server, rows);
  return { begin: segmentStart(from, SEGMENT_BYTES), end: await endOfRecords(server), facts };
}

/**
 * A record's end, flushed. What is flushed by itself ends anywhere: after asynchronous commits the server flushes whole
 * pages, and other processes write meanwhile.
 */
async function endOfRecords(server: TestServer): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>(
    "SELECT pg_logical_emit_message(false, 'referee', 'end')::text AS lsn",
  );
  await server.query('CHECKPOINT');
  return parseLsn(row?.lsn ?? '');
}

async function readLog(server: TestServer, begin: Lsn, end: Lsn): Promise<Log> {
  const parts: Buffer[] = [];
  for (let at: bigint = begin; at < end; at += BigInt(SEGMENT_BYTES))
    parts.push(
      await readFile(join(server.dataDirectory, 'pg_wal', segmentName(toTimeline(1), at, SEGMENT_BYTES))),
    );
  const bytes = Buffer.concat(parts).subarray(0, Number(end - begin));
  const [row] = await server.query<{ id: string }>(
    'SELECT system_identifier::text AS id FROM pg_control_system()',
  );
  const options = {
    segmentSizeBytes: SEGMENT_BYTES,
    timeline: toTimeline(1),
    systemIdentifier: BigInt(row?.id ?? 0),
    begin,
  };
  const collector = new ChangeMapCollector({ begin, end });
  const records: WalRecord[] = [];
  const decoder = new RecordDecoder();
  const parser = new WalParser(options, (record) => {
    collector.add(record);
    records.push(copyRecord(record, decoder));
    return true;
  });
  for (let at = 0; at < bytes.length; at += 100_000)
    parser.push(parser.position, bytes.subarray(at, at + 100_000));
  expect(parser.endOfRecords).toBe(end);
  expect(parser.version).toBe(server.major);
  return { begin, end, bytes, options, records, changes: collector.changes() };
}

// ---- comparing

/** Compares line by line, and names the first that differ instead of printing a hundred thousand. */
function expectSame(ours: readonly string[], theirs: readonly string[]): void {
  const different = ours.findIndex((line, index) => line !== theirs[index]);
  if (different !== -1)
    expect(ours.slice(different, different + 3)).toEqual(theirs.slice(different, different + 3));
  expect(ours.length).toBe(theirs.length);
}

// ---- pg_waldump -----------------------------------------------------------------------------------------------------

async function compareWithWaldump(server: TestServer, log: Log): Promise<void> {
  const theirs = await waldumpLines(server, log);
  const ours = log.records.map((record) => {
    const length = `${record.lengthBytes - imageBytes(record)}/${record.lengthBytes}`;
    const head = `${rmgrName(record.rmgr)} ${length} ${record.xid} ${formatLsn(record.begin)} ${formatLsn(record.previous)}`;
    return `${head} ${JSON.stringify(transactionText(record))} ${blockText(record)}`;
  });
  expectSame(ours, theirs);
}

async function waldumpLines(server: TestServer, log: Log): Promise<string[]> {
  const args = [
    '-p',
    join(server.dataDirectory, 'pg_wal'),
    '-s',
    formatLsn(log.begin),
    '-e',
    formatLsn(log.end),
  ];
  const { stdout } = await run(PG_WALDUMP, args, {
    maxBuffer: 1024 * 1024 * 1024,
    env: { ...process.env, TZ: 'UTC', LC_ALL: 'C' },
  }).catch((error: unknown) => {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    if (!missing) throw error;
    throw new Error(`this test needs ${PG_WALDUMP}: install the package postgresql-15`, { cause: error });
  });
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('rmgr: '))
    .map((line) => {
      const match =
        /^rmgr: (\S+)\s+len \(rec\/tot\):\s*(\d+)\/\s*(\d+), tx:\s*(\d+), lsn: (\S+), prev (\S+), desc: (.*)$/.exec(
          line,
        );
      if (match === null) throw new Error(`pg_waldump said: ${line}`);
      const [, rmgr, length, total, xid, lsn, previous, rest] = match;
      const head = `${rmgr} ${length}/${total} ${xid} ${formatLsn(parseLsn(lsn ?? ''))} ${formatLsn(parseLsn(previous ?? ''))}`;
      const transaction =
        rmgr === 'Transaction' && /^(COMMIT|ABORT)/.test(rest ?? '')
          ? parseTransactionText(rest ?? '')
          : undefined;
      return `${head} ${JSON.stringify(transaction)} ${parseBlockText(rest ?? '')}`;
    });
}

// ---- pg_walinspect ---------------------------------------------------------------------------------------------------

type InspectedRecord = {
  readonly start_lsn: string;
  readonly end_lsn: string;
  readonly prev_lsn: string;
  readonly xid: string;
  readonly resource_manager: string;
  readonly record_type: string;
  readonly record_length: number;
  readonly main_data_length: number;
  readonly fpi_length: number;
  readonly description: string | null;
  readonly block_ref: string | null;
};

async function compareWithWalinspect(server: TestServer, log: Log): Promise<void> {
  const client = await server.connect();
  try {
    await client.query("SET timezone = 'UTC'");
    const { rows } = await client.query<InspectedRecord>(
      'SELECT *, xid::text AS xid FROM pg_get_wal_records_info($1::pg_lsn, $2::pg_lsn)',
      [formatLsn(log.begin), formatLsn(log.end)],
    );
    const theirs = rows.map((row) => {
      const transaction =
        row.resource_manager === 'Transaction' && /^(COMMIT|ABORT)/.test(row.record_type)
          ? parseTransactionText(row.description ?? '')
          : undefined;
      return [
        ...[row.start_lsn, row.end_lsn, row.prev_lsn].map((lsn) => formatLsn(parseLsn(lsn))),
        row.xid,
        row.resource_manager,
        row.record_length,
        row.main_data_length,
        row.fpi_length,
        JSON.stringify(transaction),
        parseBlockText(row.block_ref ?? ''),
      ].join(' ');
    });
    const ours = log.records.map((record) =>
      [
        ...[record.begin, record.end, record.previous].map((lsn) => formatLsn(lsn)),
        record.xid,
        rmgrName(record.rmgr),
        record.lengthBytes,
        record.mainData.length,
        imageBytes(record),
        JSON.stringify(transactionText(record)),
        blockText(record),
      ].join(' '),
    );
    expectSame(ours, theirs);
    if (server.major >= 16) await compareBlocks(client, log);
  } finally {
    await client.end();
  }
}

async function compareBlocks(client: Awaited<ReturnType<TestServer['connect']>>, log: Log): Promise<void> {
  const { rows } = await client.query<{ line: string }>(
    `SELECT concat_ws(' ', start_lsn, block_id, reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber,
              coalesce(block_data_length, 0), coalesce(block_fpi_length, 0),
              CASE WHEN 'APPLY' = ANY (block_fpi_info) THEN 'apply' END) AS line
       FROM pg_get_wal_block_info($1::pg_lsn, $2::pg_lsn, false) ORDER BY start_lsn, block_id`,
    [formatLsn(log.begin), formatLsn(log.end)],
  );
  const ours = log.records.flatMap((record) =>
    record.blocks.map((block) => {
      const apply =
        block.image !== undefined &&
        record.version !== undefined &&
        (block.image.info & applyImageBit(record.version)) !== 0;
      return [
        formatLsn(record.begin),
        block.id,
        block.tablespace,
        block.database,
        block.relation,
        block.fork,
        block.block,
        block.dataBytes,
        block.image?.storedBytes ?? 0,
        ...(apply ? ['apply'] : []),
      ].join(' ');
    }),
  );
  expectSame(
    ours,
    rows.map((row) => row.line),
  );
}

// ---- data files -----------------------------------------------------------------------------------------------------

/** After a checkpoint, every page of a main fork that is newer than the log's begin must be in the change map, and in the record that its LSN names. */
async function comparePagesWithFiles(server: TestServer, log: Log): Promise<void> {
  const references = new Set(
    log.records.flatMap((record) =>
      record.blocks
        .filter((block) => block.fork === 0)
        .map(
          (block) => `${block.tablespace}/${block.database}/${block.relation}/${block.block}@${record.end}`,
        ),
    ),
  );
  const copied = new Set(log.changes.createdDatabases.map((id) => `${id.tablespace}/${id.database}`));
  const bits = touchedPages(log.changes);
  const missing: string[] = [];
  let changed = 0;
  for await (const file of mainForkFiles(server.dataDirectory)) {
    const bytes = await readFile(file.path);
    for (let at = 0; at + DATA_PAGE_BYTES <= bytes.length; at += DATA_PAGE_BYTES) {
      const lsn = (BigInt(bytes.readUInt32LE(at)) << 32n) | BigInt(bytes.readUInt32LE(at + 4));
      if (lsn <= log.begin || lsn > log.end) continue;
      changed += 1;
      const page = `${file.tablespace}/${file.database}/${file.relation}/${file.segment * 131_072 + at / DATA_PAGE_BYTES}`;
      if (copied.has(`${file.tablespace}/${file.database}`)) continue;
      if (!bits.has(page) || !references.has(`${page}@${lsn}`)) missing.push(`${page}@${formatLsn(lsn)}`);
    }
  }
  expect(missing).toEqual([]);
  expect(changed).toBeGreaterThan(200);
  expect(log.changes.unknownSpecial).toBeUndefined();
  expect(log.changes.walLevelMinimal).toBe(false);
}

function touchedPages(changes: ChangeMap): Set<string> {
  const pages = new Set<string>();
  for (const fork of changes.forks.filter((any) => any.fork === 0))
    for (const { macroblock, pages: bits } of fork.macroblocks)
      for (let page = 0; page < 256; page += 1)
        if ((((bits[page >> 3] ?? 0) >> (page & 7)) & 1) === 1)
          pages.add(`${fork.tablespace}/${fork.database}/${fork.relation}/${macroblock * 256 + page}`);
  return pages;
}

type MainForkFile = RelationId & { readonly path: string; readonly segment: number };

async function* mainForkFiles(dataDirectory: string): AsyncGenerator<MainForkFile> {
  const names = await readdir(dataDirectory, { recursive: true });
  const spaced = await readdir(join(dataDirectory, 'pg_tblspc'));
  for (const space of spaced)
    for (const name of await readdir(join(dataDirectory, 'pg_tblspc', space), { recursive: true }))
      names.push(`pg_tblspc/${space}/${name}`);
  for (const name of new Set(names)) {
    const match = /^(?:(global)|(?:base|pg_tblspc\/(\d+)\/PG_[^/]+)\/(\d+))\/(\d+)(?:\.(\d+))?$/.exec(name);
    if (match === null) continue;
    const [, global, space, database, relation, segment] = match;
    yield {
      path: join(dataDirectory, name),
      tablespace: global === undefined ? Number(space ?? 1663) : 1664,
      database: Number(database ?? 0),
      relation: Number(relation),
      segment: Number(segment ?? 0),
    };
  }
}

// ---- variety --------------------------------------------------------------------------------------------------------

/** What the referees agreed on must have been there to agree on. */
function expectVariety(log: Log): void {
  const rmgrs = new Set(log.records.map((record) => rmgrName(record.rmgr)));
  for (const rmgr of (
    'XLOG Transaction Storage Database Tablespace RelMap Standby Heap2 Heap Btree Hash Gin Gist Sequence SPGist BRIN ' +
    'LogicalMessage'
  ).split(' '))
    expect(rmgrs).toContain(rmgr);
  const ends = log.records.flatMap((record) => transactionText(record) ?? []);
  expect(ends.some((end) => end.xid !== '')).toBe(true);
  expect(ends.some((end) => end.relations !== '')).toBe(true);
  expect(ends.some((end) => end.subxids !== '')).toBe(true);
  expect(log.records.some((record) => record.topLevelXid !== 0)).toBe(true);
  const images = log.records.flatMap((record) =>
    record.blocks.flatMap((block) =>
      block.image === undefined || record.version === undefined
        ? []
        : [{ ...block.image, version: record.version }],
    ),
  );
  expect(images.some((image) => (image.info & compressedImageBits(image.version)) !== 0)).toBe(true);
  expect(images.some((image) => image.holeBytes > 0)).toBe(true);
  const { changes } = log;
  expect(changes.createdDatabases.length).toBe(log.records[0]?.version === 14 ? 2 : 3);
  expect(changes.droppedDatabases.length).toBe(1);
  expect(changes.droppedRelations.length).toBeGreaterThan(5);
  expect(changes.forks.some((fork) => fork.created && fork.fork === 0)).toBe(true);
  expect(changes.forks.some((fork) => fork.truncatedTo !== undefined && fork.truncatedTo > 0)).toBe(true);
}

// ---- entries, events, positions ----------------------------------------------------------------------------------

function expectEntryAtEverySegment(log: Log): void {
  for (let begin: bigint = log.begin; begin < log.end; begin += BigInt(SEGMENT_BYTES)) {
    const seen: Lsn[] = [];
    const parser = new WalParser({ ...log.options, begin: toLsn(begin) }, (record) => {
      seen.push(record.begin);
      return true;
    });
    parser.push(toLsn(begin), log.bytes.subarray(Number(begin - log.begin)));
    expect(seen).toEqual(log.records.map((record) => record.begin).filter((at) => at >= begin));
  }
}

async function expectEventsAndPositions(log: Log, facts: WorkloadFacts): Promise<void> {
  const inspector = createLogInspector(log.options);
  inspector.push(log.begin, log.bytes);
  const events = inspector.takeEvents();
  const kinds = new Map(Map.groupBy(events, (event) => event.kind).entries());
  expect(kinds.get('restorePoint')).toMatchObject([{ name: RESTORE_POINT }]);
  expect(kinds.get('createTablespace')).toMatchObject([{ location: facts.tablespaceLocation }]);
  expect(kinds.get('switch')?.length).toBe(1);
  expect(kinds.get('checkpoint')?.length).toBeGreaterThanOrEqual(3);
  const switched = kinds.get('switch')?.[0];
  expect((switched?.end ?? 1n) % BigInt(SEGMENT_BYTES)).toBe(0n);

  const found = await findStopBeforeTime(pieces(log), log.options, facts.middleUs);
  const ends = events.flatMap((event) =>
    event.kind === 'commit' || event.kind === 'abort' ? [{ begin: event.begin, timeUs: event.timeUs }] : [],
  );
  expect(found?.stop).toBe(ends.find((event) => event.timeUs > facts.middleUs)?.begin);
  const last = ends[ends.length - 1];
  expect(await findStopBeforeTime(pieces(log), log.options, (last?.timeUs ?? 0n) + 1n)).toBeUndefined();
  const record = await findRecordAtOrAfter(pieces(log), log.options, toLsn((switched?.begin ?? 0n) + 1n));
  expect(record?.begin).toBe((switched?.end ?? 0n) + 40n);
}

async function* pieces(log: Log) {
  for (let at = 0; at < log.bytes.length; at += 1024 * 1024)
    yield { begin: toLsn(log.begin + BigInt(at)), data: log.bytes.subarray(at, at + 1024 * 1024) };
}

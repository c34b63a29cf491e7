/**
 * The change maps that an archiver leaves in its index files, against what PostgreSQL's own readers say of the same log:
 * pg_waldump (15), pg_walinspect (16 to 18), the server's WAL summaries (17, 18), and the pages of its data files.
 */
import { execFile } from 'node:child_process';
import { chown, mkdir, open, readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { defined } from '../../foundation/assert.ts';
import { formatLsn, type Lsn, parseLsn, toLsn } from '../../foundation/lsn.ts';
import { type LogChange, readChangeMap } from '../../storage-layout/clog/change-map.ts';
import type { LogFile } from '../../storage-layout/clog/log-file.ts';
import { openMedium } from '../../storage-layout/media/open.ts';
import { tree } from '../../storage-layout/tree.ts';
import {
  ARCHIVE_GROUP,
  ARCHIVE_ROOT,
  ARCHIVE_ROUND,
  forkArchiver,
  openArchive,
  startArchiver,
  writeMountFile,
} from '../support/archiver.ts';
import { majors } from '../support/majors.ts';
import { createServer, serverUser, type TestServer } from '../support/postgres.ts';
import { createRandom } from '../support/random.ts';
import { runRandomWorkload } from '../support/random-workload.ts';
import { parseBlockText } from '../support/wal-lines.ts';
import { runWalWorkload, WORKLOAD_SETTINGS } from '../support/wal-workload.ts';

const PG_WALDUMP = '/usr/lib/postgresql/15/bin/pg_waldump';
const PAGE_BYTES = 8192;
/** Of a relation file of 1 GB. */
const SEGMENT_PAGES = 131_072;
const READ_BYTES = 8 * 2 ** 20;
const RANDOM_SPACE = 'random_space';
const FORKS = ['main', 'fsm', 'vm', 'init'];

type MappedFile = { readonly file: LogFile; readonly changes: readonly LogChange[] };

test.each(majors(15, 17))(
  'change maps hold what PostgreSQL %i itself finds in its log',
  async (major) => {
    const random = createRandom(`change maps of ${major}`);
    const settings = { ...WORKLOAD_SETTINGS, ...(major >= 17 ? { summarize_wal: 'on' } : {}) };
    await using server = await createServer({ major, settings });
    if (major >= 15) await server.query('CREATE EXTENSION pg_walinspect');
    const destination = join(server.directory, 'destination');
    await mkdir(destination);
    await writeMountFile(destination);
    await makeRandomSpace(server);
    await makeWide(server);
    // The archive begins with a segment: initdb, which made the databases by copying, is to lie in an earlier one.
    await server.query('SELECT pg_switch_wal()');
    await server.query('CHECKPOINT');
    const begin = await currentLsn(server);

    // Three archivers: one is killed, and its successor makes the map of the file that it left.
    const common = { port: server.port, destination, checkpointIntervalMs: 100 };
    const first = forkArchiver({ ...common, epoch: 1, fresh: true });
    // What is compared with pages begins where the archive does: not in the middle of a change to them.
    await until(async () => (first.progress()?.durable?.lsn ?? 0n) >= begin);
    await runRandomWorkload(server, random, 40, RANDOM_SPACE);
    const middle = await currentLsn(server);
    await until(async () => (first.progress()?.durable?.lsn ?? 0n) >= middle);
    await first.kill();
    const second = startArchiver({ ...common, epoch: 2, fresh: false });
    await runWalWorkload(server, 1500);
    await crossSegments(server);
    await until(async () => (second.progress()?.durable?.lsn ?? 0n) > middle);
    second.drain('SHUTTING_DOWN');
    await second.result.catch(() => undefined);
    const third = startArchiver({ ...common, epoch: 3, fresh: false });
    await runMore(server, random);
    await server.query('CHECKPOINT');
    const end = await currentLsn(server);
    await until(async () => (third.progress()?.durable?.lsn ?? 0n) >= end);
    third.drain();
    await third.result;

    const files = await readMaps(destination);
    expect(files.length).toBeGreaterThanOrEqual(3);
    const range = { begin: defined(files[0], 'a file').file.begin, end };
    if (major === 15) await compareWithWaldump(server, files);
    if (major >= 16) await compareWithWalinspect(server, files);
    await compareWithPages(server, files, range);
    if (major >= 17) await compareWithSummaries(server, files, range);
  },
  600_000,
);

/** The tables of the first part exist already. */
async function runMore(server: TestServer, random: ReturnType<typeof createRandom>): Promise<void> {
  await server.query('CREATE SCHEMA later');
  await server.query('ALTER ROLE postgres SET search_path = later, public');
  await runRandomWorkload(server, random, 40, RANDOM_SPACE);
}

async function makeRandomSpace(server: TestServer): Promise<void> {
  const location = join(server.directory, RANDOM_SPACE);
  await mkdir(location);
  const user = serverUser();
  if (user !== undefined) await chown(location, user.uid, user.gid);
  await server.query(`CREATE TABLESPACE ${RANDOM_SPACE} LOCATION '${location}'`);
}

/**
 * Two tables of one page less than a whole segment of 1 GB, without writing 1 GB: pages of zeros are new pages to the
 * server, and a file with a hole has them.
 */
async function makeWide(server: TestServer): Promise<void> {
  const paths: string[] = [];
  for (const table of ['wide', 'cut']) {
    await server.query(`CREATE TABLE ${table} (id int, body text)`);
    const [row] = await server.query<{ path: string }>(`SELECT pg_relation_filepath('${table}') AS path`);
    paths.push(join(server.dataDirectory, row?.path ?? ''));
  }
  await server.stop();
  for (const path of paths) await truncate(path, (SEGMENT_PAGES - 1) * PAGE_BYTES);
  await server.start();
}

/** Rows on both sides of the border, changed there; and one table cut back across it. */
async function crossSegments(server: TestServer): Promise<void> {
  for (const table of ['wide', 'cut'])
    await server.query(`INSERT INTO ${table} SELECT i, repeat('x', 1000) FROM generate_series(1, 100) i`);
  const [row] = await server.query<{ least: number; most: number }>(
    `SELECT min(page)::int AS least, max(page)::int AS most
     FROM (SELECT (ctid::text::point)[0] AS page FROM wide) pages`,
  );
  expect(row?.least).toBeLessThan(SEGMENT_PAGES);
  expect(row?.most).toBeGreaterThanOrEqual(SEGMENT_PAGES);
  await server.query('CHECKPOINT');
  await server.query("UPDATE wide SET body = 'y' WHERE id % 5 = 0");
  await server.query('DELETE FROM cut');
  await server.query('VACUUM cut');
  expect(await server.query("SELECT pg_relation_size('cut')::int AS size")).toEqual([{ size: 0 }]);
}

async function currentLsn(server: TestServer): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>('SELECT pg_current_wal_flush_lsn()::text AS lsn');
  return parseLsn(row?.lsn ?? '');
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 120_000;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error('timed out');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function readMaps(destination: string): Promise<MappedFile[]> {
  const archive = await openArchive(destination);
  await using medium = await openMedium(`file://${destination}`);
  const mapped: MappedFile[] = [];
  for (const file of archive.files) {
    expect(file.hasIndex).toBe(true);
    expect(file.changes).toBeDefined();
    expect(file.changes?.unknownSpecial).toBeUndefined();
    expect(file.changes?.walLevelMinimal).toBe(false);
    const key = tree.logIndex(ARCHIVE_ROOT, ARCHIVE_ROUND, ARCHIVE_GROUP, file.fileId, file.epoch);
    const changes: LogChange[] = [];
    for await (const change of readChangeMap(medium, key)) changes.push(change);
    expect(pagesOf(changes).size).toBe(file.changes?.pageCount);
    mapped.push({ file, changes });
  }
  return mapped;
}

/** `tablespace/database/relation fork block` of every page. */
function pagesOf(changes: readonly LogChange[]): Set<string> {
  const pages = new Set<string>();
  for (const change of changes) {
    if (change.kind !== 'fork') continue;
    const relation = `${change.tablespace}/${change.database}/${change.relation} ${FORKS[change.fork]}`;
    for (const { macroblock, pages: bits } of change.macroblocks)
      for (let page = 0; page < 256; page += 1)
        if ((((bits[page >> 3] ?? 0) >> (page & 7)) & 1) === 1)
          pages.add(`${relation} ${macroblock * 256 + page}`);
  }
  return pages;
}

function expectSamePages(ours: Set<string>, theirs: Set<string>): void {
  expect([...theirs].filter((page) => !ours.has(page)).slice(0, 5)).toEqual([]);
  expect([...ours].filter((page) => !theirs.has(page)).slice(0, 5)).toEqual([]);
  expect(ours.size).toBeGreaterThan(0);
}

async function compareWithWaldump(server: TestServer, files: readonly MappedFile[]): Promise<void> {
  const begin = defined(files[0], 'a file').file.begin;
  const end = defined(files.at(-1), 'a file').file.end;
  const args = ['-p', join(server.dataDirectory, 'pg_wal'), '-s', formatLsn(begin), '-e', formatLsn(end)];
  const { stdout } = await promisify(execFile)(PG_WALDUMP, args, { maxBuffer: 2 ** 30 });
  const theirs = new Set<string>();
  for (const line of stdout.split('\n')) {
    for (const match of parseBlockText(line).matchAll(/#\d+ (\S+ \w+ \d+)/g)) theirs.add(match[1] ?? '');
  }
  expectSamePages(pagesOf(files.flatMap((file) => file.changes)), theirs);
}

/** File by file: the records that END in it. */
async function compareWithWalinspect(server: TestServer, files: readonly MappedFile[]): Promise<void> {
  const begin = defined(files[0], 'a file').file.begin;
  const end = defined(files.at(-1), 'a file').file.end;
  const rows = await server.query<{ page: string; end_lsn: string }>(
    `SELECT DISTINCT format('%s/%s/%s %s %s', reltablespace, reldatabase, relfilenode,
              (ARRAY['main','fsm','vm','init'])[relforknumber + 1], relblocknumber) AS page, end_lsn::text
       FROM pg_get_wal_block_info('${formatLsn(begin)}', least('${formatLsn(end)}'::pg_lsn, pg_current_wal_flush_lsn()), false)`,
  );
  for (const { file, changes } of files) {
    const theirs = rows.filter(({ end_lsn }) => {
      const at = parseLsn(end_lsn);
      return at > file.begin && at <= file.end;
    });
    const ours = pagesOf(changes);
    if (theirs.length === 0) expect(ours.size).toBe(0);
    else expectSamePages(ours, new Set(theirs.map((row) => row.page)));
  }
  expect(rows.length).toBeGreaterThan(1000);
}

/** Every page of a main fork that is newer than the log's begin. */
async function compareWithPages(
  server: TestServer,
  files: readonly MappedFile[],
  range: { readonly begin: Lsn; readonly end: Lsn },
): Promise<void> {
  const changes = files.flatMap((file) => file.changes);
  const pages = pagesOf(changes);
  const copied = new Set(
    changes.flatMap((change) =>
      change.kind === 'createdDatabase' ? [`${change.tablespace}/${change.database}`] : [],
    ),
  );
  const missing: string[] = [];
  let found = 0;
  let behindBorder = 0;
  const outside: string[] = [];
  for (const [path, place, relation, segment] of await mainForks(server.dataDirectory)) {
    if (copied.has(place)) continue;
    for await (const { number, lsn } of pageLsns(path)) {
      if (lsn <= range.begin || lsn > range.end) {
        if (segment > 0) outside.push(`${path} ${number} ${formatLsn(toLsn(lsn))}`);
        continue;
      }
      found += 1;
      if (segment > 0) behindBorder += 1;
      const page = `${place}/${relation} main ${segment * SEGMENT_PAGES + number}`;
      if (!pages.has(page)) missing.push(page);
    }
  }
  expect(missing).toEqual([]);
  expect(found).toBeGreaterThan(200);
  const inside = `${formatLsn(range.begin)} to ${formatLsn(range.end)}`;
  expect(
    behindBorder,
    `${[...copied].join()} copied; outside of ${inside}: ${outside.join()}`,
  ).toBeGreaterThan(5);
}

/** Of the pages that were ever written. A file may be of 1 GB, nearly all of it a hole. */
async function* pageLsns(path: string): AsyncGenerator<{ readonly number: number; readonly lsn: bigint }> {
  await using file = await open(path);
  const buffer = Buffer.alloc(READ_BYTES);
  for (let offset = 0; ; offset += READ_BYTES) {
    const { bytesRead } = await file.read(buffer, 0, READ_BYTES, offset);
    for (let at = 0; at + PAGE_BYTES <= bytesRead; at += PAGE_BYTES) {
      const lsn = (BigInt(buffer.readUInt32LE(at)) << 32n) | BigInt(buffer.readUInt32LE(at + 4));
      if (lsn !== 0n) yield { number: (offset + at) / PAGE_BYTES, lsn };
    }
    if (bytesRead < READ_BYTES) return;
  }
}

async function mainForks(
  dataDirectory: string,
): Promise<readonly (readonly [path: string, place: string, relation: string, segment: number])[]> {
  const names = await readdir(dataDirectory, { recursive: true });
  for (const space of await readdir(join(dataDirectory, 'pg_tblspc')))
    for (const name of await readdir(join(dataDirectory, 'pg_tblspc', space), { recursive: true }))
      names.push(`pg_tblspc/${space}/${name}`);
  return [...new Set(names)].flatMap((name) => {
    const match = /^(?:(global)|(?:base|pg_tblspc\/(\d+)\/PG_[^/]+)\/(\d+))\/(\d+)(?:\.(\d+))?$/.exec(name);
    if (match === null) return [];
    const [, global, space, database, relation, segment] = match;
    const place = global === undefined ? `${space ?? 1663}/${database}` : '1664/0';
    return [[join(dataDirectory, name), place, relation ?? '', Number(segment ?? 0)] as const];
  });
}

/** All that the server's summaries of the range hold is in the maps, as a page or as something that covers it. */
async function compareWithSummaries(
  server: TestServer,
  files: readonly MappedFile[],
  range: { readonly begin: Lsn; readonly end: Lsn },
): Promise<void> {
  const summarized = `SELECT coalesce(max(end_lsn), '0/0') >= '${formatLsn(range.end)}'::pg_lsn AS done FROM pg_available_wal_summaries()`;
  await server.query('CHECKPOINT'); // summaries end at checkpoints
  await until(async () => (await server.query<{ done: boolean }>(summarized))[0]?.done === true);
  const rows = await server.query<Record<string, string>>(
    `SELECT DISTINCT c.reltablespace::text AS tablespace, c.reldatabase::text AS database, c.relfilenode::text AS relation,
            c.relforknumber::text AS fork, c.relblocknumber::text AS block, c.is_limit_block::text AS cut
       FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c
      WHERE s.start_lsn >= '${formatLsn(range.begin)}' AND s.end_lsn <= '${formatLsn(range.end)}'`,
  );
  expect(rows.length).toBeGreaterThan(500);
  const changes = files.flatMap((file) => file.changes);
  const pages = pagesOf(changes);
  const whole = new Set<string>();
  const cuts = new Map<string, number>();
  for (const change of changes) {
    const place = `${change.tablespace}/${change.database}`;
    if (change.kind === 'droppedRelation') {
      whole.add(`${place}/${change.relation}`);
    } else if (change.kind === 'fork') {
      const cut = change.created ? 0 : change.truncatedTo;
      const key = `${place}/${change.relation}/${change.fork}`;
      if (cut !== undefined) cuts.set(key, Math.min(cut, cuts.get(key) ?? cut));
    } else {
      whole.add(place);
    }
  }
  const missing = rows.filter((row) => {
    const place = `${row['tablespace']}/${row['database']}`;
    const relation = `${place}/${row['relation']}`;
    if (whole.has(place) || whole.has(relation)) return false;
    if ((cuts.get(`${relation}/${row['fork']}`) ?? Number.POSITIVE_INFINITY) <= Number(row['block']))
      return false;
    return row['cut'] === 'true' || !pages.has(`${relation} ${FORKS[Number(row['fork'])]} ${row['block']}`);
  });
  expect(missing).toEqual([]);
}

/**
 * `npm run bench`: Holdfast beside pgBackRest and what other tools there are, on one machine, one disk and one database,
 * work by work in turn (comparison.ts): medians, ratios, and the goals for them; then a real agent's memory and lag. Prints
 * the tables that stand in README, or writes them there.
 *
 *   npm run bench -- [--small | --large] [--runs <n>] [--no-agent] [--readme]
 *                    [--pgbackrest <path>] [--no-repo-block] [--server <major>] [--pg-basebackup <path>] [--pg-probackup <path>]
 *                    [--barman <path>]
 *   npm run bench -- --log [--small] [--readme]     log archiving alone (log.ts), with README's table of it
 *
 * The server is PostgreSQL 15, the newest that Debian's pgBackRest reads, unless `--server` says so.
 *
 * Restores are compared as far as all go: pgBackRest lays the files down and makes them durable; Holdfast does the same
 * (no server is started on either side), and lays the log of the backup into pg_wal as well, some segments, which counts.
 * pgBackRest leaves the files in the page cache, Holdfast does not: the server that starts next finds them warm or cold.
 */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatSize } from '../foundation/units.ts';
import { ensureDebianPackages } from '../scripts/debian-packages.ts';
import { MAJORS, makeTestDirectory, type TestServer } from '../test/support/postgres.ts';
import { measureAgent } from './agent.ts';
import { compare, compareArchiving, type Tools } from './comparison.ts';
import { formatComparison } from './comparison-report.ts';
import { createBenchServer, databaseBytes } from './database.ts';
import { Holdfast } from './holdfast.ts';
import { benchLog } from './log.ts';
import { openOthers } from './others.ts';
import { PgBackRest } from './pgbackrest.ts';
import { openPgBench } from './pgbench.ts';
import { describeAgent, fillSection, SECTION, type Section } from './report.ts';
import { ZstdCommand } from './zstd-command.ts';

const MIB = 2 ** 20;
const README = join(import.meta.dirname, '..', 'README.md');
const SIZES = {
  small: { databaseBytes: 160 * MIB, runs: 1, loadSeconds: 10, logBytes: 64 * MIB },
  default: { databaseBytes: 2048 * MIB, runs: 5, loadSeconds: 30, logBytes: 256 * MIB },
  large: { databaseBytes: 4096 * MIB, runs: 5, loadSeconds: 30, logBytes: 512 * MIB },
} as const;

const { values: options } = parseArgs({
  options: {
    small: { type: 'boolean', default: false },
    large: { type: 'boolean', default: false },
    runs: { type: 'string' },
    'no-agent': { type: 'boolean', default: false },
    readme: { type: 'boolean', default: false },
    log: { type: 'boolean', default: false },
    server: { type: 'string', default: '15' },
    pgbackrest: { type: 'string' },
    'no-repo-block': { type: 'boolean', default: false },
    'pg-basebackup': { type: 'string' },
    'pg-probackup': { type: 'string' },
    barman: { type: 'string' },
  },
});
const sizeName = options.small ? 'small' : options.large ? 'large' : 'default';
const size = SIZES[sizeName];
const runs = Math.max(1, Number(options.runs ?? size.runs));
const major = MAJORS.find((each) => String(each) === options.server);

const directory = await makeTestDirectory('bench');
try {
  if (options.log) await publish(await benchLog(directory, options.small), SECTION.log);
  else await bench();
} finally {
  await rm(directory, { recursive: true, force: true });
}

async function bench(): Promise<void> {
  if (major === undefined) throw new Error(`--server: one of ${MAJORS.join(', ')}`);
  await ensureDebianPackages([
    { name: 'zstd', programs: ['/usr/bin/zstd'] },
    ...(options.pgbackrest === undefined ? [{ name: 'pgbackrest', programs: ['/usr/bin/pgbackrest'] }] : []),
  ]);
  const socketDirectory = await makeTestDirectory('bench-socket');
  try {
    console.error(`making a database of ${formatSize(size.databaseBytes)} …`);
    await using server = await createBenchServer(major, size.databaseBytes, socketDirectory);
    const plainBytes = await databaseBytes(server);
    await using stack = new AsyncDisposableStack();
    const tools: Tools = {
      rival: stack.use(
        await PgBackRest.open(directory, server, socketDirectory, {
          program: options.pgbackrest,
          wantsBlocks: !options['no-repo-block'],
        }),
      ),
      same: stack.use(new Holdfast(directory, server, 'zstd:3')),
      usual: stack.use(new Holdfast(directory, server, 'zstd:1')),
      others: await openOthers(directory, server, {
        pgBaseBackup: options['pg-basebackup'],
        pgProBackup: options['pg-probackup'],
        barman: options.barman,
      }),
      zstd: new ZstdCommand(directory, server),
    };
    for (const tool of tools.others) stack.use(tool);
    const costs = await compare(directory, server, tools, runs);
    console.error('what archivers get through …');
    await compareArchiving(directory, socketDirectory, size.logBytes, costs);
    const setting = await describeSetting(server, plainBytes, tools);
    await publish(formatComparison({ setting, costs }), SECTION.backups);
    if (options['no-agent']) return;
    console.error('a real agent at work …');
    const figures = await measureAgent(server, await openPgBench(server), size.loadSeconds);
    const machine = `${await describeServer(server, plainBytes)}; ${describeMachine()}.`;
    await publish(`${machine}\n\n${describeAgent(figures)}`, SECTION.agent);
  } finally {
    await rm(socketDirectory, { recursive: true, force: true });
  }
}

async function describeSetting(
  server: TestServer,
  plainBytes: number,
  { rival, same, usual, others }: Tools,
): Promise<readonly string[]> {
  const flags = [
    ...(sizeName === 'default' ? [] : [`--${sizeName}`]),
    ...(options.runs === undefined ? [] : [`--runs ${runs}`]),
    ...(options['no-repo-block'] ? ['--no-repo-block'] : []),
  ];
  const command = ['npm run bench', ...(flags.length === 0 ? [] : ['--', ...flags])].join(' ');
  return [
    `\`${command}\` of ${new Date().toISOString().slice(0, 10)}: ${await describeServer(server, plainBytes)};`,
    `${runs === 1 ? 'one run' : `median of ${runs} runs`}, tools in turn; ${describeMachine()}, zstd ${await ZstdCommand.version()}.`,
    ...[rival, same, usual, ...others].map(({ description }) => `${description}.`),
    'A restore is the files laid down durably, no server started; Holdfast lays the log of the backup into pg_wal too,',
    'and writes large files past the page cache: a server started on them reads them from disk. The delta restore goes from',
    'the tenth increment back to the full. `pgbackrest verify` reads a full backup and its log and compares checksums (made',
    'without repo-block where that is beta: `verify` of that version does not read such files); Holdfast validates its full',
    "set and its log: every block read, decompressed, its checksum and its pages' compared, the log's records followed.",
    'Time is that of the whole process, its start included; CPU time is that of all processes of the tool,',
    "of Holdfast's archiver too while an increment waits for its change maps, of the server for pg_basebackup.",
  ];
}

async function describeServer(server: TestServer, plainBytes: number): Promise<string> {
  const [row] = await server.query<{ version: string }>(
    "SELECT current_setting('server_version') AS version",
  );
  return `database ${formatSize(plainBytes)}, PostgreSQL ${row?.version ?? server.major} with page checksums`;
}

function describeMachine(): string {
  return `${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.version}`;
}

async function publish(text: string, section: Section): Promise<void> {
  console.log(text);
  if (options.readme) await writeFile(README, fillSection(await readFile(README, 'utf8'), section, text));
}

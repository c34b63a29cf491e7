/**
 * `npm run bench`: Holdfast beside Debian's pgBackRest on one machine, one disk and one database, run by run in turn;
 * medians, and Holdfast's as a share of pgBackRest's; then a real agent's memory and lag. Prints the table that stands in
 * README, or writes it there.
 *
 *   npm run bench -- [--small | --large] [--runs <n>] [--no-agent] [--readme]
 *   npm run bench -- --log [--small] [--readme]     log archiving alone (log.ts), with README's table of it
 *
 * Restores are compared as far as both go: pgBackRest lays the files down and makes them durable; Holdfast does the same
 * (no server is started on either side), and lays the log of the backup into pg_wal as well, some segments, which counts.
 * pgBackRest leaves the files in the page cache, Holdfast does not: the server that starts next finds them warm or cold.
 */
import { execFile } from 'node:child_process';
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { formatSize } from '../foundation/units.ts';
import { makeTestDirectory } from '../test/support/postgres.ts';
import { measureAgent } from './agent.ts';
import { createBenchServer, databaseBytes } from './database.ts';
import { Holdfast } from './holdfast.ts';
import { benchLog } from './log.ts';
import type { Measured } from './measured-command.ts';
import { PgBackRest } from './pgbackrest.ts';
import { openPgBench } from './pgbench.ts';
import {
  describeAgent,
  fillSection,
  formatTable,
  type Operation,
  SECTION,
  type Section,
  type Side,
  summarize,
} from './report.ts';

const GIB = 2 ** 30;
const LOAD_SECONDS = { small: 10, full: 30 };
const README = join(import.meta.dirname, '..', 'README.md');

const { values: options } = parseArgs({
  options: {
    small: { type: 'boolean', default: false },
    large: { type: 'boolean', default: false },
    runs: { type: 'string' },
    'no-agent': { type: 'boolean', default: false },
    readme: { type: 'boolean', default: false },
    log: { type: 'boolean', default: false },
  },
});
const sizeBytes = options.small ? 0.3 * GIB : options.large ? 4 * GIB : 2 * GIB;
const runs = Math.max(1, Number(options.runs ?? (options.small ? 2 : 3)));

const directory = await makeTestDirectory('bench');
try {
  if (options.log) await publish(await benchLog(directory, options.small), SECTION.log);
  else await bench();
} finally {
  await rm(directory, { recursive: true, force: true });
}

async function bench(): Promise<void> {
  const socketDirectory = await makeTestDirectory('bench-socket');
  try {
    console.error(`making a database of ${formatSize(sizeBytes)} …`);
    await using server = await createBenchServer(sizeBytes, socketDirectory);
    const rival = new PgBackRest(directory, server, socketDirectory);
    const same = new Holdfast(directory, server, 'zstd:3');
    const usual = new Holdfast(directory, server, 'zstd:1');
    const results = new Map<string, Measured[]>();
    const note = (operation: Operation, side: Side, measured: Measured) => {
      const key = `${operation} ${side}`;
      results.set(key, [...(results.get(key) ?? []), measured]);
      console.error(`${key}: ${measured.seconds.toFixed(2)} s, ${measured.cpuSeconds.toFixed(2)} s CPU`);
    };
    for (let run = 1; run <= runs; run += 1) {
      console.error(`run ${run} of ${runs}`);
      for (const [side, tool] of [
        ['pgBackRest', rival],
        ['Holdfast zstd:3', same],
        ['Holdfast zstd:1', usual],
      ] as const) {
        await tool.prepare();
        await settle();
        note('backup', side, await tool.backUp());
        if (tool instanceof Holdfast) await tool.archive();
        const target = join(directory, 'restored');
        await settle();
        note('restore', side, await tool.restore(target));
        await rm(target, { recursive: true, force: true });
      }
    }
    const stored = {
      pgBackRest: await treeBytes(rival.repository),
      'Holdfast zstd:3': await treeBytes(join(same.destination, 'test/1/incarnation_1/1/data')),
      'Holdfast zstd:1': await treeBytes(join(usual.destination, 'test/1/incarnation_1/1/data')),
    };
    const plainBytes = await databaseBytes(server);
    const [version] = await server
      .query<{ version: string }>('SHOW server_version AS version')
      .catch(() => []);
    const parts = [
      describeMachine(plainBytes, version?.version ?? '15', await PgBackRest.version()),
      formatTable(summarize(results, stored)),
    ];
    if (!options['no-agent']) {
      console.error('a real agent at work …');
      const loadSeconds = options.small ? LOAD_SECONDS.small : LOAD_SECONDS.full;
      parts.push(describeAgent(await measureAgent(server, await openPgBench(server), loadSeconds)));
    }
    await publish(parts.join('\n\n'), SECTION.backup);
  } finally {
    await rm(socketDirectory, { recursive: true, force: true });
  }
}

/** Lets the disk write what earlier steps left, so that no run pays for another. */
async function settle(): Promise<void> {
  await promisify(execFile)('sync');
}

function describeMachine(plainBytes: number, serverVersion: string, rivalVersion: string): string {
  return [
    `Database ${formatSize(plainBytes)}, PostgreSQL ${serverVersion} with page checksums; median of ${runs} runs in turn;`,
    `${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.version};`,
    `${rivalVersion}: compress-type=zst, compress-level=3, process-max=2, archive-check=n; Holdfast: 2 workers.`,
    'A restore is the files laid down durably, no server started; Holdfast lays the log of the backup into pg_wal too,',
    'and writes large files past the page cache: a server started on them reads them from disk.',
  ].join('\n');
}

async function publish(text: string, section: Section): Promise<void> {
  console.log(text);
  if (options.readme) await writeFile(README, fillSection(await readFile(README, 'utf8'), section, text));
}

async function treeBytes(path: string): Promise<number> {
  let bytes = 0;
  for (const entry of await readdir(path, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += (await stat(join(entry.parentPath, entry.name))).size;
  return bytes;
}

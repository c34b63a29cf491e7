/**
 * The program of a query process: `build <snapshot> <views as JSON>` writes the snapshot and ends; `serve <snapshot>`
 * answers requests from the process channel until the channel closes.
 *
 * PGlite runs a query without ever returning to the event loop, so a worker thread watches whether the coordinator is
 * still there: a query process never outlives it, however long its query.
 */
import { Worker } from 'node:worker_threads';
import type { PGlite } from '@electric-sql/pglite';
import { buildSnapshot, loadViews, openSnapshot } from './query-process-database.ts';
import type { QueryProcessReply, QueryProcessRequest } from './query-process-messages.ts';

/** Ends the process when its parent is no longer the one that started it. */
const WATCH_PARENT = `
  const parent = process.ppid;
  setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL'); }, 1000);`;

const [mode, path, views] = process.argv.slice(2);
if (path === undefined) throw new Error('usage: query-process-main build|serve SNAPSHOT [VIEWS]');
new Worker(WATCH_PARENT, { eval: true }).unref();
process.on('disconnect', () => process.exit(0));
process.on('SIGINT', () => undefined); // Ctrl-C in the coordinator's terminal is the coordinator's business
if (mode === 'build') {
  await buildSnapshot(path, JSON.parse(views ?? '[]'));
  process.exit(0);
}
const database = await openSnapshot(path);
let previous: Promise<void> = Promise.resolve();
process.on('message', (request: QueryProcessRequest) => {
  previous = previous.then(() => answer(request)).catch(fail);
});
const version = await database.query<{ server_version: string }>('SHOW server_version');
reply({ kind: 'ready', serverVersion: version.rows[0]?.server_version.split(' ')[0] ?? '18' });

async function answer(request: QueryProcessRequest): Promise<void> {
  if (request.kind === 'load') {
    await loadViews(database, request.views);
    reply({ kind: 'answer', frames: new Uint8Array() });
  } else {
    reply({ kind: 'answer', frames: await exchange(database, request.message) });
  }
}

async function exchange(target: PGlite, message: Uint8Array): Promise<Uint8Array> {
  return await target.execProtocolRaw(message, { syncToFs: false });
}

function fail(error: unknown): void {
  reply({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
}

function reply(message: QueryProcessReply): void {
  process.send?.(message);
}

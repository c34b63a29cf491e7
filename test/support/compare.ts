/** Whether a restored server is what it should be, by every referee that needs no oracle. */
import type pg from 'pg';
import { compareStates, readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { compareIndexScans } from '../../cli/demo/index-scans.ts';
import { runAmcheck } from './amcheck.ts';

type Connect = (database: string) => Promise<pg.Client>;

/** Row for row, index against table, and amcheck. Empty when the server holds exactly `expected` and is sound. */
export async function findDifferences(connect: Connect, expected: ServerState): Promise<string[]> {
  return [...compareStates(expected, await readServerState(connect)), ...(await findUnsoundness(connect))];
}

/** Index-only scans against tables in database `shop` and `postgres`, and amcheck everywhere: for a state that nobody wrote down. */
export async function findUnsoundness(connect: Connect): Promise<string[]> {
  const problems: string[] = [];
  for (const database of ['postgres', 'shop']) {
    const client = await connect(database);
    try {
      problems.push(...(await compareIndexScans(client)).differences);
    } finally {
      await client.end();
    }
  }
  return [...problems, ...(await runAmcheck(connect))];
}

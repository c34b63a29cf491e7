/** Whether a restored server is what it should be, by every referee that needs no oracle. */
import type pg from 'pg';
import { compareStates, readServerState, type ServerState } from '../../cli/demo/database-state.ts';
import { compareIndexScans } from '../../cli/demo/index-scans.ts';
import { listDatabases, runAmcheck } from './amcheck.ts';

type Connect = (database: string) => Promise<pg.Client>;

/** Row for row, index against table, and amcheck. Empty when the server holds exactly `expected` and is sound. */
export async function findDifferences(connect: Connect, expected: ServerState): Promise<string[]> {
  return [...compareStates(expected, await readServerState(connect)), ...(await findUnsoundness(connect))];
}

/** Index-only scans against tables, and amcheck, in every database: for a state that nobody wrote down. */
export async function findUnsoundness(connect: Connect): Promise<string[]> {
  const problems: string[] = [];
  for (const database of await listDatabases(connect)) {
    const client = await connect(database);
    try {
      const { differences } = await compareIndexScans(client);
      problems.push(...differences.map((difference) => `${database}: ${difference}`));
    } finally {
      await client.end();
    }
  }
  return [...problems, ...(await runAmcheck(connect))];
}

/** A connection to a PostgreSQL wire port, the coordinator's or a server's, that tells what it is asked and what it answers. */
import { Client, DatabaseError, type QueryResultRow } from 'pg';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Narrator } from './narrator.ts';

export type ConnectTo = {
  readonly port: number;
  readonly user: string;
  readonly database: string;
  readonly password?: string;
};

/** Connects to 127.0.0.1; the caller ends the client. A connection that is lost fails the statements after it. */
export async function connectClient(to: ConnectTo): Promise<Client> {
  const client = new Client({ host: '127.0.0.1', ...to, application_name: 'holdfast demo' });
  client.on('error', () => undefined); // the next statement reports it
  await client.connect();
  return client;
}

/** Runs one statement aloud and returns its rows. The server's error becomes a HoldfastError with its detail and hint. */
export async function tell(
  client: Client,
  prompt: string,
  sql: string,
  narrator: Narrator,
): Promise<readonly QueryResultRow[]> {
  narrator.statement(prompt, sql);
  const onNotice = (notice: { message?: string | undefined }) =>
    narrator.answer(`NOTICE:  ${notice.message ?? ''}`);
  client.on('notice', onNotice);
  try {
    const result = await client.query(sql);
    // The driver keeps a tag's first word only: it is told where a number goes with it.
    if (result.rowCount !== null && result.command !== 'SELECT')
      narrator.answer(`${result.command} ${result.rowCount}`);
    return result.rows;
  } catch (error) {
    throw statementError(error, sql);
  } finally {
    client.off('notice', onNotice);
  }
}

function statementError(error: unknown, sql: string): HoldfastError {
  const server = error instanceof DatabaseError ? error : undefined;
  return new HoldfastError(
    'INTERNAL',
    `${sql.split('\n')[0]} failed: ${error instanceof Error ? error.message : String(error)}`,
    {
      cause: error,
      ...(server?.detail === undefined ? {} : { detail: server.detail }),
      ...(server?.hint === undefined ? {} : { hint: server.hint }),
    },
  );
}

/** TCP ports of this host that nobody listens on. Another process may take one before the server does; it then fails to start. */
import { createServer } from 'node:net';
import { HoldfastError } from '../../foundation/errors.ts';

/** The port that was given last, by the begin of its range: ports are the host's, so this is the process's. */
const lastGiven = new Map<number, number>();

/**
 * A free port of [begin, end), each in turn: one that was given a moment ago is not listened on yet, and several partition
 * groups may be restored here at once. Throws RESTORE_FAILED when all are taken.
 */
export async function freePortIn(range: { readonly begin: number; readonly end: number }): Promise<number> {
  for (let tries = range.begin; tries < range.end; tries++) {
    const last = lastGiven.get(range.begin) ?? range.begin - 1;
    const port = last + 1 < range.end ? last + 1 : range.begin;
    lastGiven.set(range.begin, port);
    if (await isFree(port)) return port;
  }
  throw new HoldfastError(
    'RESTORE_FAILED',
    `no port from ${range.begin} to ${range.end - 1} is free for the restored server`,
    { hint: 'Widen restore.port_range in the agent configuration, or stop a restored server.' },
  );
}

/** A free port that the operating system chooses. */
export async function anyFreePort(): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const server = createServer();
  server.once('error', reject);
  server.listen(0, '127.0.0.1', () => {
    const address = server.address();
    server.close(() => {
      if (typeof address === 'object' && address !== null) resolve(address.port);
      else reject(new Error('a listening socket without a port'));
    });
  });
  return await promise;
}

export async function isFree(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = createServer();
  server.once('error', () => resolve(false));
  server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  return await promise;
}

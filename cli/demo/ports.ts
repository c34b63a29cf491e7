/** Ports that are free now. */
import { createServer } from 'node:net';

/** A free TCP port on 127.0.0.1. Another process may take it before it is used: use it soon. */
export async function freePort(): Promise<number> {
  const [port = 0] = await freePorts(1);
  return port;
}

/** Several different ones, held together until all are known. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  try {
    return await Promise.all(
      servers.map((server) => {
        const { promise, resolve, reject } = Promise.withResolvers<number>();
        server.once('error', reject);
        server.listen(0, '127.0.0.1', () => {
          const address = server.address();
          if (typeof address === 'object' && address !== null) resolve(address.port);
          else reject(new Error('no port'));
        });
        return promise;
      }),
    );
  } finally {
    await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  }
}

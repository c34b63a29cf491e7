/**
 * A PostgreSQL server as its clients see it, but for the log that it streams: the proxy hands on every byte, and lets the
 * test change the bytes of the log on their way. A backend message is `type u8, length u32 (with itself)`; log comes in
 * CopyData, `d`, as `w`, start u64, end u64, clock u64, log.
 */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

const HEADER_BYTES = 5;
const LOG_OFFSET = HEADER_BYTES + 1 + 8 + 8 + 8;

export type ServerProxy = AsyncDisposable & {
  readonly port: number;
  /** Called with the log bytes of each message and where they begin; it may change them. Undefined: nothing is changed. */
  change: ((begin: bigint, log: Buffer) => void) | undefined;
};

export async function startServerProxy(serverPort: number): Promise<ServerProxy> {
  const sockets = new Set<Socket>();
  const keep = (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => socket.destroy()); // the other side sees the end
    socket.on('close', () => sockets.delete(socket));
  };
  const listener = createServer((client) => {
    const server = connect(serverPort, '127.0.0.1');
    keep(client);
    keep(server);
    client.pipe(server);
    server.on('data', changer(client, proxy));
    server.on('end', () => client.end());
    client.on('close', () => server.destroy());
    server.on('close', () => client.destroy());
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  const address = listener.address();
  if (address === null || typeof address === 'string') throw new Error('a port was asked for');
  const proxy: ServerProxy = {
    port: address.port,
    change: undefined,
    async [Symbol.asyncDispose]() {
      const closed = once(listener, 'close');
      listener.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
  return proxy;
}

/** Hands whole messages on. The test's clients ask for no encryption, whose answer would be a single byte. */
function changer(client: Socket, proxy: ServerProxy): (data: Buffer) => void {
  let pending = Buffer.alloc(0);
  return (data) => {
    pending = Buffer.concat([pending, data]);
    let at = 0;
    while (pending.length - at >= HEADER_BYTES) {
      const next = at + 1 + pending.readUInt32BE(at + 1);
      if (pending.length < next) break;
      const message = pending.subarray(at, next);
      if (message[0] === 0x64 && message[HEADER_BYTES] === 0x77)
        proxy.change?.(message.readBigUInt64BE(HEADER_BYTES + 1), message.subarray(LOG_OFFSET));
      at = next;
    }
    client.write(pending.subarray(0, at));
    pending = Buffer.from(pending.subarray(at));
  };
}

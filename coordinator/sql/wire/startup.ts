/**
 * What happens before a client may send statements: TLS, the start-up packet, SCRAM.
 *
 *   start-up packet: int32 length (itself included), int32 code, body
 *     80877103 SSLRequest, 80877104 GSSENCRequest, 80877102 CancelRequest, 196608 and up: a session
 */
import type { Socket } from 'node:net';
import { type SecureContext, TLSSocket } from 'node:tls';
import { HoldfastError } from '../../../foundation/errors.ts';
import type { Credentials } from '../credentials.ts';
import {
  authenticationOk,
  authenticationSasl,
  authenticationSaslContinue,
  authenticationSaslFinal,
  negotiateProtocolVersion,
} from './backend-messages.ts';
import { BodyReader } from './frames.ts';
import { decodeFrontend } from './frontend-messages.ts';
import { clientGone, MessageQueue, writeTo } from './message-queue.ts';
import { SCRAM_MECHANISM, startScram } from './scram.ts';

const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;
const CANCEL_REQUEST = 80_877_102;
const PROTOCOL_MAJOR = 3;
const MAX_STARTUP_BYTES = 10_000;

export type Startup =
  | { readonly kind: 'cancel'; readonly processId: number; readonly secret: number }
  | {
      readonly kind: 'session';
      readonly socket: Socket;
      readonly queue: MessageQueue;
      readonly parameters: ReadonlyMap<string, string>;
    };

/** Reads start-up packets until one asks for a session or a cancel. Throws PROTOCOL_VIOLATION, CANCELLED. */
export async function readStartup(plain: Socket, tls: SecureContext | undefined): Promise<Startup> {
  let socket = plain;
  while (true) {
    const { packet, rest } = await readPacket(socket);
    const body = new BodyReader(packet, 4);
    const code = body.int32();
    if (code === SSL_REQUEST || code === GSS_REQUEST) {
      // Bytes sent along with the request would have been read as if they had come encrypted.
      if (rest.length > 0)
        throw new HoldfastError('PROTOCOL_VIOLATION', 'data behind a request for encryption');
      const upgrade = code === SSL_REQUEST && tls !== undefined && socket === plain;
      await writeTo(socket, Buffer.from(upgrade ? 'S' : 'N'));
      if (upgrade) socket = new TLSSocket(plain, { isServer: true, secureContext: tls });
      continue;
    }
    if (code === CANCEL_REQUEST) return { kind: 'cancel', processId: body.int32(), secret: body.int32() };
    if (code >> 16 !== PROTOCOL_MAJOR)
      throw new HoldfastError(
        'PROTOCOL_VIOLATION',
        `protocol ${code >> 16}.${code & 0xffff} is not spoken here`,
      );
    const parameters = readParameters(body);
    const unknown = [...parameters.keys()].filter((name) => name.startsWith('_pq_.'));
    if ((code & 0xffff) > 0 || unknown.length > 0) await writeTo(socket, negotiateProtocolVersion(unknown));
    return { kind: 'session', socket, queue: new MessageQueue(socket, rest), parameters };
  }
}

function readParameters(body: BodyReader): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (let name = body.string(); name !== ''; name = body.string()) parameters.set(name, body.string());
  return parameters;
}

async function readPacket(socket: Socket): Promise<{ readonly packet: Buffer; readonly rest: Buffer }> {
  let bytes: Buffer = Buffer.alloc(0);
  while (true) {
    const sizeBytes = bytes.length >= 4 ? bytes.readInt32BE(0) : undefined;
    if (sizeBytes !== undefined && (sizeBytes < 8 || sizeBytes > MAX_STARTUP_BYTES))
      throw new HoldfastError('PROTOCOL_VIOLATION', `start-up packet of ${sizeBytes} bytes`);
    if (sizeBytes !== undefined && bytes.length >= sizeBytes)
      return { packet: bytes.subarray(0, sizeBytes), rest: bytes.subarray(sizeBytes) };
    bytes = Buffer.concat([bytes, await readChunk(socket)]);
  }
}

async function readChunk(socket: Socket): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const gone = () => reject(clientGone());
  socket.once('data', resolve);
  socket.once('close', gone);
  socket.once('end', gone);
  socket.resume();
  try {
    if (socket.destroyed) throw clientGone();
    return await promise;
  } finally {
    socket.pause();
    socket.off('data', resolve);
    socket.off('close', gone);
    socket.off('end', gone);
  }
}

/** The SCRAM exchange. Throws AUTHENTICATION_FAILED; which of user and password was wrong is not told. */
export async function authenticate(
  socket: Socket,
  queue: MessageQueue,
  user: string,
  credentials: Credentials,
): Promise<void> {
  if (credentials.trusts?.(user) === true) {
    await writeTo(socket, authenticationOk());
    return;
  }
  const { secret, exists } = credentials.secretOf(user);
  const scram = startScram(secret);
  await writeTo(socket, authenticationSasl(SCRAM_MECHANISM));
  const initial = new BodyReader(await readPassword(queue), 0);
  const mechanism = initial.string();
  const sizeBytes = initial.int32();
  const first =
    mechanism === SCRAM_MECHANISM && sizeBytes >= 0
      ? scram.first(initial.take(sizeBytes).toString())
      : undefined;
  if (first === undefined)
    throw new HoldfastError('PROTOCOL_VIOLATION', `cannot authenticate by ${mechanism}`);
  await writeTo(socket, authenticationSaslContinue(first));
  const final = scram.final((await readPassword(queue)).toString());
  if (final === undefined || !exists)
    throw new HoldfastError('AUTHENTICATION_FAILED', `password authentication failed for user "${user}"`);
  await writeTo(socket, Buffer.concat([authenticationSaslFinal(final), authenticationOk()]));
}

async function readPassword(queue: MessageQueue): Promise<Buffer> {
  const found = await queue.next();
  if (found === undefined) throw clientGone();
  const message = decodeFrontend(found);
  if (message.kind !== 'password')
    throw new HoldfastError('PROTOCOL_VIOLATION', `expected a password, got "${found.type}"`);
  return message.body;
}

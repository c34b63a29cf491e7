/**
 * SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's half, as PostgreSQL uses it: the user name comes from the start-up
 * packet and the one in the exchange is ignored; no channel binding. A user that does not exist runs the same exchange
 * and fails at its end.
 */
import { createHash, createHmac, pbkdf2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

export const SCRAM_MECHANISM = 'SCRAM-SHA-256';
const ITERATIONS = 4096;
const SALT_BYTES = 16;

export type ScramSecret = {
  readonly salt: Buffer;
  readonly iterations: number;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
};

/** What a server keeps instead of a password. */
export async function makeScramSecret(
  password: string,
  salt: Buffer = randomBytes(SALT_BYTES),
): Promise<ScramSecret> {
  const salted = await promisify(pbkdf2)(password.normalize('NFKC'), salt, ITERATIONS, 32, 'sha256');
  const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest();
  return { salt, iterations: ITERATIONS, storedKey, serverKey: hmac(salted, 'Server Key') };
}

export type ScramServer = {
  /** The server-first message for the client-first one; undefined: malformed or not supported. */
  first(clientFirst: string): string | undefined;
  /** The server-final message; undefined: the password is wrong, or the message malformed. */
  final(clientFinal: string): string | undefined;
};

export function startScram(secret: ScramSecret, nonce = randomBytes(18).toString('base64')): ScramServer {
  let binding = '';
  let fullNonce = '';
  let firstMessages = '';
  return {
    first(clientFirst) {
      const [, header, bare, clientNonce] =
        /^([ny],(?:a=[^,]*)?,)(n=[^,]*,r=([!-+\--~]+)(?:,.*)?)$/s.exec(clientFirst) ?? [];
      if (header === undefined || bare === undefined || clientNonce === undefined) return undefined;
      binding = Buffer.from(header).toString('base64');
      fullNonce = clientNonce + nonce;
      const serverFirst = `r=${fullNonce},s=${secret.salt.toString('base64')},i=${secret.iterations}`;
      firstMessages = `${bare},${serverFirst}`;
      return serverFirst;
    },
    final(clientFinal) {
      const [, withoutProof, channel, echoedNonce, proofText] =
        /^(c=([^,]*),r=([^,]*)(?:,[^,]*)*),p=([^,]*)$/s.exec(clientFinal) ?? [];
      if (withoutProof === undefined || proofText === undefined || fullNonce === '') return undefined;
      if (channel !== binding || echoedNonce !== fullNonce) return undefined;
      const authMessage = `${firstMessages},${withoutProof}`;
      const proof = Buffer.from(proofText, 'base64');
      const signature = hmac(secret.storedKey, authMessage);
      if (proof.length !== signature.length) return undefined;
      const clientKey = Buffer.from(proof.map((byte, i) => byte ^ (signature[i] ?? 0)));
      const storedKey = createHash('sha256').update(clientKey).digest();
      if (!timingSafeEqual(storedKey, secret.storedKey)) return undefined;
      return `v=${hmac(secret.serverKey, authMessage).toString('base64')}`;
    },
  };
}

/** True when `password` is the secret's. */
export async function checkPassword(secret: ScramSecret, password: string): Promise<boolean> {
  const made = await makeScramSecret(password, secret.salt);
  return timingSafeEqual(made.storedKey, secret.storedKey);
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

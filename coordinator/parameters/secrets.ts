/**
 * Secrets at rest in the catalog (URIs with access keys): AES-256-GCM under a key file in the coordinator's data
 * directory. A stored value is `v1:` and base64 of nonce (12 bytes), tag (16) and ciphertext.
 */
import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../../foundation/errors.ts';

const KEY_BYTES = 32;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const PREFIX = 'v1:';

export type SecretBox = {
  encrypt(plain: string): string;
  /** Throws INVALID_CONFIG when the value was encrypted under another key. */
  decrypt(stored: string): string;
};

/** Reads the key file, and makes it (mode 0600) when there is none. */
export async function openSecretBox(dataDirectory: string): Promise<SecretBox> {
  const path = join(dataDirectory, 'secret.key');
  await mkdir(dataDirectory, { recursive: true, mode: 0o700 });
  try {
    await writeFile(path, randomBytes(KEY_BYTES), { flag: 'wx', mode: 0o600, flush: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error; // node:fs throws errno errors
  }
  const key = await readFile(path);
  if (key.length !== KEY_BYTES)
    throw new HoldfastError(
      'INVALID_CONFIG',
      `the key file ${path} has ${key.length} bytes instead of ${KEY_BYTES}`,
    );
  return secretBox(key, path);
}

export function secretBox(key: Buffer, path: string): SecretBox {
  return {
    encrypt(plain) {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', key, nonce);
      const data = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
      return PREFIX + Buffer.concat([nonce, cipher.getAuthTag(), data]).toString('base64');
    },
    decrypt(stored) {
      try {
        const bytes = Buffer.from(stored.slice(PREFIX.length), 'base64');
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, NONCE_BYTES));
        decipher.setAuthTag(bytes.subarray(NONCE_BYTES, NONCE_BYTES + TAG_BYTES));
        return (
          decipher.update(bytes.subarray(NONCE_BYTES + TAG_BYTES)).toString('utf8') + decipher.final('utf8')
        );
      } catch (error) {
        throw new HoldfastError(
          'INVALID_CONFIG',
          `a secret in the catalog does not open with the key file ${path}`,
          {
            cause: error,
            hint: 'Put the key file back that this catalog was used with, or set the parameter again.',
          },
        );
      }
    },
  };
}

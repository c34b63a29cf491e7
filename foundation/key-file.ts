/**
 * A key file: keys of 256 bits, one a line, as 64 hexadecimal digits. The first one wraps, all of them open: a new key is
 * put before the old one, backups are wrapped anew, and the old one is taken out. Empty lines and lines that begin with
 * `#` are passed over.
 */
import { readFile, stat } from 'node:fs/promises';
import { HoldfastError } from './errors.ts';

const MAKE_HINT = 'Make one: (umask 077; openssl rand -hex 32 > backup.key)';
const OTHERS = 0o007;

/** Throws INVALID_CONFIG: no such file, readable by everyone, or not of that form. What is in it is never shown. */
export async function readKeyFile(path: string): Promise<readonly Uint8Array[]> {
  let text: string;
  try {
    if (((await stat(path)).mode & OTHERS) !== 0)
      throw new HoldfastError('INVALID_CONFIG', `the key file ${path} can be read by everyone`, {
        hint: `chmod 600 ${path}`,
      });
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (cause instanceof HoldfastError) throw cause;
    throw new HoldfastError('INVALID_CONFIG', `the key file ${path} cannot be read`, {
      cause,
      hint: MAKE_HINT,
    });
  }
  const keys = parseKeyFile(text);
  if (keys === undefined)
    throw new HoldfastError(
      'INVALID_CONFIG',
      `${path} is no key file: a line is not of 64 hexadecimal digits`,
      {
        hint: MAKE_HINT,
      },
    );
  return keys;
}

/** Undefined when a line is no key, or there is none. */
export function parseKeyFile(text: string): readonly Uint8Array[] | undefined {
  const lines = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  if (lines.length === 0 || lines.some((line) => !/^[0-9a-fA-F]{64}$/.test(line))) return undefined;
  return lines.map((line) => Uint8Array.from(Buffer.from(line, 'hex')));
}

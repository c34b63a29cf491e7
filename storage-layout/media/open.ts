/** Destinations by URI: which scheme is which medium, how a URI is shown, and whether a destination can be used. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '../../foundation/errors.ts';
import { openFileMedium } from './file.ts';
import type { Medium } from './medium.ts';

/** Parameters that may be shown; every other one is masked. */
const PLAIN_PARAMETERS: ReadonlySet<string> = new Set([
  'host',
  'region',
  'addressing',
  'mountport',
  'uid',
  'gid',
]);

/**
 * Opens the medium that `uri` names. Throws INVALID_BACKUP_DEST (not a URI, no such directory) or NOT_SUPPORTED
 * (a scheme without a medium).
 */
export async function openMedium(uri: string, signal?: AbortSignal): Promise<Medium> {
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(uri)?.[1]?.toLowerCase();
  switch (scheme) {
    case 'file':
      return await openFileMedium(filePath(uri), signal);
    case undefined:
      throw new HoldfastError('INVALID_BACKUP_DEST', 'a destination is a URI with a scheme', {
        hint: 'Write file:///path/of/a/directory.',
      });
    default:
      throw new HoldfastError('NOT_SUPPORTED', `destinations of scheme ${scheme}:// are not supported`, {
        hint: 'Use file:///path: a directory, or a mounted share.',
      });
  }
}

/** The URI for people and logs: credentials before an `@` and all parameters but the harmless ones become `***`. */
export function maskUri(uri: string): string {
  const [path, query] = splitOnce(uri, '?');
  const masked = path.replace(/^([a-z][a-z0-9+.-]*:\/\/)[^/]*@/i, '$1***@');
  if (query === undefined) return masked;
  const parameters = query.split('&').map((parameter) => {
    const [name, value] = splitOnce(parameter, '=');
    return value === undefined || PLAIN_PARAMETERS.has(name.toLowerCase()) ? parameter : `${name}=***`;
  });
  return `${masked}?${parameters.join('&')}`;
}

/**
 * Proves by doing that a destination can be used: a check file is created below `prefix`, read back, listed and deleted.
 * Throws INVALID_BACKUP_DEST with the store's own error in the detail.
 */
export async function probeMedium(medium: Medium, prefix: string, signal?: AbortSignal): Promise<void> {
  const directory = prefix === '' ? 'check_file' : `${prefix}/check_file`;
  const key = `${directory}/${randomUUID()}`;
  const content = Buffer.from(`Holdfast checks this destination: ${key}\n`);
  let step = 'write';
  try {
    await medium.createExclusive(key, content, signal);
    step = 'read back';
    const found = await medium.read(key, signal);
    if (!found.equals(content)) throw new HoldfastError('DATA_CORRUPT', `${key} was read back changed`);
    step = 'list';
    if (!(await isListed(medium, directory, key, signal)))
      throw new HoldfastError('FILE_NOT_FOUND', `${key} is not listed`);
    step = 'delete';
    await medium.deleteMany([key], signal);
    if ((await medium.stat(key, signal)) !== undefined)
      throw new HoldfastError('FILE_EXISTS', `${key} is still there`);
  } catch (error) {
    signal?.throwIfAborted();
    const detail = error instanceof HoldfastError ? (error.detail ?? error.message) : String(error);
    throw new HoldfastError(
      'INVALID_BACKUP_DEST',
      `the destination ${medium.displayUri} cannot be used: to ${step} a check file failed`,
      { cause: error, detail },
    );
  }
}

async function isListed(
  medium: Medium,
  directory: string,
  key: string,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for await (const page of medium.list(directory, signal)) {
    if (page.some((file) => file.key === key)) return true;
  }
  return false;
}

function filePath(uri: string): string {
  try {
    const path = fileURLToPath(new URL(uri));
    return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path;
  } catch (error) {
    throw new HoldfastError('INVALID_BACKUP_DEST', `not a file URI: ${maskUri(uri)}`, {
      cause: error,
      hint: 'Write file:///path with three slashes and an absolute path.',
    });
  }
}

function splitOnce(text: string, separator: string): readonly [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

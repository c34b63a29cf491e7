/**
 * What a command opens encrypted backups with: a key file, passwords from a file, or the environment. Never an argument:
 * process lists show those.
 */
import { readFile } from 'node:fs/promises';
import type { Command } from 'commander';
import { HoldfastError } from '../foundation/errors.ts';
import { readKeyFile } from '../foundation/key-file.ts';
import { unlockingRing } from '../storage-layout/encryption/unlock.ts';
import type { KeySecrets } from '../storage-layout/encryption/wrapping.ts';
import type { Medium } from '../storage-layout/media/medium.ts';
import { openMedium } from '../storage-layout/media/open.ts';
import { withKeys } from '../storage-layout/media/with-keys.ts';

export type BackupKeyOptions = { readonly keyFile?: string; readonly passwordFile?: string };

const PASSWORD_VARIABLE = 'HOLDFAST_BACKUP_PASSWORD';
const KEY_FILE_VARIABLE = 'HOLDFAST_BACKUP_KEY_FILE';

export function addBackupKeyOptions(command: Command): Command {
  return command
    .option('--key-file <file>', `the key file of encrypted backups; default: $${KEY_FILE_VARIABLE}`)
    .option(
      '--password-file <file>',
      `a file with the passwords of encrypted backups, one a line; default: the password in $${PASSWORD_VARIABLE}`,
    );
}

/** Throws INVALID_CONFIG when a file cannot be read. */
export async function readBackupKeys(
  options: BackupKeyOptions,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<KeySecrets> {
  const keyFile = options.keyFile ?? environment[KEY_FILE_VARIABLE];
  const password = environment[PASSWORD_VARIABLE];
  const passwords =
    options.passwordFile === undefined
      ? password === undefined || password === ''
        ? []
        : [password]
      : await readPasswords(options.passwordFile);
  return { passwords, fileKeys: keyFile === undefined ? [] : await readKeyFile(keyFile) };
}

/** The destination with whatever opens its encrypted files. */
export async function openWithBackupKeys(
  uri: string,
  secrets: KeySecrets,
  signal?: AbortSignal,
): Promise<Medium> {
  const medium = await openMedium(uri, signal);
  return withKeys(
    medium,
    unlockingRing(medium, () => Promise.resolve(secrets)),
  );
}

async function readPasswords(path: string): Promise<readonly string[]> {
  try {
    const text = await readFile(path, 'utf8');
    return text.split(/\r?\n/).filter((line) => line !== '');
  } catch (cause) {
    throw new HoldfastError('INVALID_CONFIG', `the password file ${path} cannot be read`, { cause });
  }
}

/** Who may log in, and with what password. Passwords are kept as SCRAM secrets only. */
import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../foundation/errors.ts';
import { checkPassword, makeScramSecret, type ScramSecret } from './wire/scram.ts';

export type Credentials = {
  /** For a user who does not exist a secret that no password fits, the same each time. */
  secretOf(user: string): { readonly secret: ScramSecret; readonly exists: boolean };
  /** True for a user who needs no password: only where nothing but this machine can connect. */
  readonly trusts?: (user: string) => boolean;
};

export async function makeCredentials(
  users: readonly { readonly user: string; readonly password: string }[],
): Promise<Credentials> {
  const secrets = new Map<string, ScramSecret>();
  for (const { user, password } of users) secrets.set(user, await makeScramSecret(password));
  const mock = await makeScramSecret(randomBytes(32).toString('base64'));
  return {
    secretOf(user) {
      const secret = secrets.get(user);
      return { secret: secret ?? mock, exists: secret !== undefined };
    },
  };
}

/** Throws AUTHENTICATION_FAILED; which of user and password was wrong is not told. */
export async function checkLogin(credentials: Credentials, user: string, password: string): Promise<void> {
  if (credentials.trusts?.(user) === true) return;
  const { secret, exists } = credentials.secretOf(user);
  if (!(await checkPassword(secret, password)) || !exists)
    throw new HoldfastError('AUTHENTICATION_FAILED', `password authentication failed for user "${user}"`, {
      hint: 'Give --user and --password-file.',
    });
}

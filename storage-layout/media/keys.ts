/** Keys: what a medium accepts as the name of a file, whoever built it. */
import { HoldfastError } from '../../foundation/errors.ts';

/** Refuses a key that is empty, absolute, or could leave the medium's root. Throws INVALID_ARGUMENT. */
export function checkKey(key: string): void {
  const parts = key.split('/');
  if (parts.some((part) => part === '' || part.startsWith('.') || part.includes('\0'))) {
    throw new HoldfastError('INVALID_ARGUMENT', `not a key of a destination: ${JSON.stringify(key)}`);
  }
}

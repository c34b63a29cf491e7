/** Errors on their way between threads. */
import { type ErrorCode, HoldfastError, toHoldfastError } from '../foundation/errors.ts';

/** A HoldfastError as plain data: a class does not survive the way between threads. */
export type PlainError = {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint: string | undefined;
  readonly detail: string | undefined;
};

export function plainError(error: unknown): PlainError {
  const { code, message, hint, detail } = toHoldfastError(error);
  return { code, message, hint, detail };
}

export function errorOfPlain(plain: PlainError): HoldfastError {
  return new HoldfastError(plain.code, plain.message, {
    ...(plain.hint === undefined ? {} : { hint: plain.hint }),
    ...(plain.detail === undefined ? {} : { detail: plain.detail }),
  });
}

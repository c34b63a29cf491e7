/** Leaving work behind that does not end. */
import { toHoldfastError } from '../../foundation/errors.ts';

/** A destination that hangs is left alone this long after the task was told to end. */
const ABANDON_MS = 5000;

/** A store that hangs cannot be made to answer: some time after the signal its call is left behind. */
export async function abandonable<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise: abandoned, reject } = Promise.withResolvers<never>();
  let timer: NodeJS.Timeout | undefined;
  const onAbort = () => {
    timer = setTimeout(() => reject(toHoldfastError(signal.reason)), ABANDON_MS);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([work, abandoned]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', onAbort);
    work.catch(() => undefined); // left behind, or reported already
  }
}

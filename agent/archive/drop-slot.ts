/** An archiver that was told to end gives its slot up. */
import type { Instance } from '../../engine/engine.ts';
import type { Clock } from '../../foundation/clock.ts';
import { type HoldfastError, toHoldfastError } from '../../foundation/errors.ts';

const LIMIT_MS = 10_000;
const RETRY_MS = 200;

/** Undefined: it is gone. The session that streamed may hold the slot for a moment after its end, so it is tried for a while. */
export async function dropSlot(
  connect: (signal: AbortSignal) => Promise<Instance>,
  slotName: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<HoldfastError | undefined> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(LIMIT_MS)]);
  for (;;) {
    try {
      await using server = await connect(limit);
      await server.dropSlot(slotName, limit);
      return undefined;
    } catch (error) {
      await clock.sleep(RETRY_MS, limit).catch(() => undefined);
      if (limit.aborted) return toHoldfastError(error);
    }
  }
}

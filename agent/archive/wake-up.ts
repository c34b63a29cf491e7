/** Lets one loop wait for "something may have changed". A notice that comes while nobody waits is kept for the next wait. */
export class WakeUp {
  #noticed = false;
  #wake: (() => void) | undefined;

  notify(): void {
    this.#noticed = true;
    this.#wake?.();
  }

  /** Resolves at a notice, after `ms` (undefined: never by time), or when the signal fires; it never rejects. */
  async wait(ms: number | undefined, signal: AbortSignal): Promise<void> {
    if (!this.#noticed && !signal.aborted && (ms === undefined || ms > 0)) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wake = resolve;
      const timer = ms === undefined ? undefined : setTimeout(resolve, ms);
      const onAbort = () => resolve();
      signal.addEventListener('abort', onAbort);
      await promise;
      signal.removeEventListener('abort', onAbort);
      clearTimeout(timer);
      this.#wake = undefined;
    }
    this.#noticed = false;
  }
}

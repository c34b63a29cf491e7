/**
 * The in-process bus: wakes those who wait for a change. It carries no data; what changed is read from the catalog, so
 * nothing is lost when nobody listens or a process restarts.
 */
import type { Clock } from '../../foundation/clock.ts';
import type { Queryable } from '../catalog/catalog.ts';
import { type EventRow, listEvents } from '../catalog/events.ts';

const PAGE_ROWS = 200;
/** Another coordinator's events come without a wake-up. */
const POLL_MS = 1000;

export class ChangeBus {
  #version = 0;
  #wake = Promise.withResolvers<void>();

  get version(): number {
    return this.#version;
  }

  /** Says that something changed. */
  notify(): void {
    this.#version += 1;
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  }

  /** Resolves when something has changed since `version`, or after `timeoutMs`. Rejects when `signal` aborts. */
  async changed(version: number, timeoutMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#version !== version) return;
    const stop = new AbortController();
    const wake = this.#wake.promise;
    try {
      await Promise.race([wake, clock.sleep(timeoutMs, AbortSignal.any([signal, stop.signal]))]);
    } finally {
      stop.abort(new Error('woken'));
    }
  }
}

/** Every event behind `afterId`, and then each new one, until `signal` aborts. */
export async function* watchEvents(
  db: Queryable,
  bus: ChangeBus,
  clock: Clock,
  afterId: bigint,
  signal: AbortSignal,
): AsyncGenerator<EventRow> {
  let last = afterId;
  while (!signal.aborted) {
    const { version } = bus;
    const events = await listEvents(db, last, PAGE_ROWS);
    for (const event of events) {
      yield event;
      last = event.event_id;
    }
    if (events.length < PAGE_ROWS) await bus.changed(version, POLL_MS, clock, signal);
  }
}

/**
 * Keeps the slots of this node's standbys in step with the archive, and drops slots that nobody needs any more. What
 * fails is tried again at the next order.
 */
import type { Clock } from '../foundation/clock.ts';
import type { Logger } from '../foundation/log.ts';
import { toLsn } from '../foundation/lsn.ts';
import type { KeepSlots, KeptSlot } from '../proto/gen/holdfast/v1/agent_pb.ts';
import type { Instances } from './instances.ts';

const LIMIT_MS = 10_000;
/** The same failure is told once in this time. */
const TELL_AGAIN_MS = 300_000;
/** A slot that was dropped is not looked for again in this time, and said to be dropped. */
const DROPPED_KEPT_MS = 60_000;

export class SlotKeeper {
  readonly #instances: Instances;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #toldMs = new Map<string, number>();
  /** By instance and slot. */
  readonly #dropped = new Map<
    string,
    { readonly instance: string; readonly slotName: string; readonly atMs: number }
  >();
  #busy: Promise<void> | undefined;

  constructor(instances: Instances, clock: Clock, logger: Logger) {
    this.#instances = instances;
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Returns at once. While an order is carried out the next one is passed over: another follows soon. */
  keep(order: KeepSlots): void {
    if (this.#busy !== undefined) return;
    this.#busy = this.#keepAll(order.slots).finally(() => {
      this.#busy = undefined;
    });
  }

  /** Slots that an order had dropped a moment ago. */
  dropped(): readonly { readonly instance: string; readonly slotName: string }[] {
    const oldestMs = this.#clock.monotonicMs() - DROPPED_KEPT_MS;
    for (const [key, { atMs }] of this.#dropped) if (atMs < oldestMs) this.#dropped.delete(key);
    return [...this.#dropped.values()];
  }

  /** Resolves when the order under way is done. */
  async settle(): Promise<void> {
    await this.#busy;
  }

  /** Never rejects. */
  async #keepAll(slots: readonly KeptSlot[]): Promise<void> {
    await Promise.all(slots.map((slot) => this.#keep(slot)));
  }

  async #keep({ instance, slotName, lsn }: KeptSlot): Promise<void> {
    const limit = AbortSignal.timeout(LIMIT_MS);
    const key = `${instance} ${slotName}`;
    if (lsn !== 0n) this.#dropped.delete(key);
    else if (this.dropped().some((slot) => slot.instance === instance && slot.slotName === slotName)) return;
    try {
      await using server = await this.#instances.connect(instance, limit);
      if (lsn === 0n) {
        const gone = await server.dropUnusedSlot(slotName, limit);
        if (gone) this.#dropped.set(key, { instance, slotName, atMs: this.#clock.monotonicMs() });
      } else {
        await server.keepSlotInStep(slotName, toLsn(lsn), limit);
      }
      this.#toldMs.delete(instance);
    } catch (error) {
      const nowMs = this.#clock.monotonicMs();
      if (nowMs - (this.#toldMs.get(instance) ?? Number.NEGATIVE_INFINITY) < TELL_AGAIN_MS) return;
      this.#toldMs.set(instance, nowMs);
      this.#logger.warn({ err: error, instance, slotName }, 'a slot is not as the coordinator wants it');
    }
  }
}

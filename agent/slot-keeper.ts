/** Keeps the slots of this node's standbys in step with the archive. What fails is tried again at the next order. */
import type { Clock } from '../foundation/clock.ts';
import type { Logger } from '../foundation/log.ts';
import { toLsn } from '../foundation/lsn.ts';
import type { KeepSlots, KeptSlot } from '../proto/gen/holdfast/v1/agent_pb.ts';
import type { Instances } from './instances.ts';

const LIMIT_MS = 10_000;
/** The same failure is told once in this time. */
const TELL_AGAIN_MS = 300_000;

export class SlotKeeper {
  readonly #instances: Instances;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #toldMs = new Map<string, number>();
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
    try {
      await using server = await this.#instances.connect(instance, limit);
      if (lsn === 0n) await server.dropSlotOfStandby(slotName, limit);
      else await server.keepSlotInStep(slotName, toLsn(lsn), limit);
      this.#toldMs.delete(instance);
    } catch (error) {
      const nowMs = this.#clock.monotonicMs();
      if (nowMs - (this.#toldMs.get(instance) ?? Number.NEGATIVE_INFINITY) < TELL_AGAIN_MS) return;
      this.#toldMs.set(instance, nowMs);
      this.#logger.warn({ err: error, instance, slotName }, 'the slot of a standby is not in step');
    }
  }
}

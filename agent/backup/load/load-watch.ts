/**
 * Watches how the server that is copied feels, and sets the copy's pace. Each second: how long a small commit takes there,
 * one at a time, and how much the node waits for I/O. What cannot be measured is left out, with one warning; no failure of
 * it fails the backup.
 */
import type { Instance } from '../../../engine/engine.ts';
import { toHoldfastError } from '../../../foundation/errors.ts';
import type { TaskContext } from '../../task-context.ts';
import type { SharedLimits } from '../throttle.ts';
import { FULL_PACE, type LoadLimits, type LoadSample, stepLoad } from './controller.ts';
import { IoWait } from './io-wait.ts';

const INTERVAL_MS = 1000;

/** What of a task's context this needs. */
type LoadContext = Pick<TaskContext, 'clock' | 'logger' | 'instance'>;
/** What cannot be measured, as the log names it. */
type Measured = 'commit latency' | 'I/O wait';

export class LoadWatch implements AsyncDisposable {
  readonly #context: LoadContext;
  readonly #instance: string;
  readonly #pressureFile: string | undefined;
  readonly #pace: SharedLimits;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #limits: LoadLimits;
  #state = FULL_PACE;
  readonly #failed = new Set<Measured>();

  /** Runs until it is disposed. `pressureFile`: where the kernel tells the I/O wait; default: where Linux does. */
  constructor(
    context: LoadContext,
    instance: string,
    limits: LoadLimits,
    pace: SharedLimits,
    pressureFile?: string,
  ) {
    this.#context = context;
    this.#instance = instance;
    this.#pressureFile = pressureFile;
    this.#limits = limits;
    this.#pace = pace;
    this.#running = this.#watch(this.#stop.signal);
  }

  limit(limits: LoadLimits): void {
    this.#limits = limits;
    if (limits.commitLatencyMs === 0 && limits.ioWaitPercent === 0) this.#set(FULL_PACE);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new Error('the copy has ended'));
    await this.#running;
  }

  /** Never rejects. */
  async #watch(signal: AbortSignal): Promise<void> {
    const { clock } = this.#context;
    const ioWait = new IoWait((error) => this.#tell('I/O wait', error), this.#pressureFile);
    const commit = new CommitProbe(this.#context, this.#instance, signal, (error) =>
      this.#tell('commit latency', error),
    );
    try {
      for (;;) {
        await clock.sleep(INTERVAL_MS, signal);
        const { commitLatencyMs, ioWaitPercent } = this.#limits;
        const sample = {
          ioWaitPercent: ioWaitPercent === 0 ? undefined : await ioWait.measure(clock.monotonicMs()),
          commitLatencyMs: commitLatencyMs === 0 ? undefined : commit.latencyMs(),
        };
        this.#step(sample);
      }
    } catch {
      // the signal: it has ended
    } finally {
      await commit.end();
    }
  }

  #step(sample: LoadSample): void {
    const before = this.#state.pace;
    this.#set(stepLoad(this.#state, sample, this.#limits));
    const { pace } = this.#state;
    if ((before === 1) === (pace === 1)) return;
    this.#context.logger.info(
      { ...sample, pace },
      pace === 1 ? 'the copy goes on at full pace' : 'the copy is slowed',
    );
  }

  #set(state: typeof FULL_PACE): void {
    this.#state = state;
    this.#pace.pace = state.pace;
  }

  #tell(what: Measured, error: unknown): void {
    if (this.#failed.has(what)) return;
    this.#failed.add(what);
    this.#context.logger.warn({ err: toHoldfastError(error) }, `the ${what} cannot be measured`);
  }
}

/** Commits on a session of its own, the next one when the one before is through. */
class CommitProbe {
  readonly #context: LoadContext;
  readonly #name: string;
  readonly #signal: AbortSignal;
  readonly #onError: (error: unknown) => void;
  #instance: Instance | undefined;
  #running: Promise<void> | undefined;
  #begunMs = 0;
  #lastMs: number | undefined;

  constructor(context: LoadContext, name: string, signal: AbortSignal, onError: (error: unknown) => void) {
    this.#context = context;
    this.#name = name;
    this.#signal = signal;
    this.#onError = onError;
  }

  /** Of the last commit, or so far of the one that is under way, where that is longer; begins the next. */
  latencyMs(): number | undefined {
    if (this.#running === undefined) {
      const last = this.#lastMs;
      this.#begunMs = this.#context.clock.monotonicMs();
      this.#running = this.#measure();
      return last;
    }
    const soFarMs = this.#context.clock.monotonicMs() - this.#begunMs;
    return this.#lastMs === undefined ? soFarMs : Math.max(soFarMs, this.#lastMs);
  }

  async end(): Promise<void> {
    await this.#running;
    await this.#instance?.[Symbol.asyncDispose]();
  }

  /** Never rejects. */
  async #measure(): Promise<void> {
    try {
      this.#instance ??= await this.#context.instance(this.#name, this.#signal);
      this.#lastMs = await this.#instance.measureCommitMs(this.#signal);
    } catch (error) {
      this.#lastMs = undefined;
      if (!this.#signal.aborted) this.#onError(error);
    } finally {
      this.#running = undefined;
    }
  }
}

/**
 * A medium that fails as a plan says, around a real one. What each fault leaves at the store:
 *
 *   failBefore  nothing is done               then DESTINATION_IO
 *   failAfter   all is done, and durable      then DESTINATION_IO: the answer was lost
 *   tear        half of an append's bytes     then DESTINATION_IO; any other call: as failBefore
 *   full        as `tear`                     then DESTINATION_FULL
 *   delay       all is done, later            no error
 *   kill        as `tear`                     then DESTINATION_IO for this and every later call of this medium: a new one
 *                                             must be opened, as after a crash or a lost mount
 */
import { setTimeout as wait } from 'node:timers/promises';
import { assertNever } from '../../foundation/assert.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type {
  AppendableFile,
  Medium,
  MediumCapabilities,
  StoredFile,
  StoredFileWriter,
} from '../../storage-layout/media/medium.ts';
import type { Random } from './random.ts';

export const FAULTS = ['failBefore', 'failAfter', 'tear', 'full', 'delay', 'kill'] as const;
export type Fault = (typeof FAULTS)[number];

/** Asked before every call, of every medium that follows it; `call` is the method's name, `append` an open file's. */
export interface FaultPlan {
  next(call: string, key: string): { readonly fault: Fault; readonly delayMs: number } | undefined;
}

export type SeededPlan = FaultPlan & {
  /** The chance that a call fails, [0, 1]. 0: from now on nothing fails. */
  rate: number;
  /** How often each fault was planned. */
  readonly counts: Map<Fault, number>;
};

export function seededPlan(random: Random, rate: number, longestDelayMs = 60): SeededPlan {
  const counts = new Map<Fault, number>();
  return {
    rate,
    counts,
    next() {
      if (random.next() >= this.rate) return undefined;
      const fault = FAULTS[random.between(0, FAULTS.length)] ?? 'failBefore';
      counts.set(fault, (counts.get(fault) ?? 0) + 1);
      return { fault, delayMs: random.between(0, longestDelayMs) };
    },
  };
}

export class FaultyMedium implements Medium {
  readonly #store: Medium;
  readonly #faults: Faults;

  constructor(store: Medium, plan: FaultPlan) {
    this.#store = store;
    this.#faults = new Faults(plan);
  }

  get displayUri(): string {
    return this.#store.displayUri;
  }
  get capabilities(): MediumCapabilities {
    return this.#store.capabilities;
  }

  read(key: string, signal?: AbortSignal): Promise<Buffer> {
    return this.#faults.around('read', key, () => this.#store.read(key, signal));
  }
  readRange(key: string, begin: number, end: number, into?: Buffer, signal?: AbortSignal): Promise<Buffer> {
    return this.#faults.around('readRange', key, () => this.#store.readRange(key, begin, end, into, signal));
  }
  createExclusive(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#faults.around('createExclusive', key, () => this.#store.createExclusive(key, data, signal));
  }
  replace(key: string, data: Uint8Array, signal?: AbortSignal): Promise<void> {
    return this.#faults.around('replace', key, () => this.#store.replace(key, data, signal));
  }
  createFile(key: string, signal?: AbortSignal): Promise<StoredFileWriter> {
    return this.#faults.around('createFile', key, () => this.#store.createFile(key, signal), dispose);
  }
  createAppendable(key: string, signal?: AbortSignal): Promise<AppendableFile> {
    return this.#faults.around(
      'createAppendable',
      key,
      async () => new FaultyFile(key, await this.#store.createAppendable(key, signal), this.#faults),
      dispose,
    );
  }
  makeDurable(key: string, signal?: AbortSignal): Promise<void> {
    return this.#faults.around('makeDurable', key, () => this.#store.makeDurable(key, signal));
  }
  async *list(prefix: string, signal?: AbortSignal): AsyncIterable<readonly StoredFile[]> {
    await this.#faults.around('list', prefix, () => Promise.resolve());
    yield* this.#store.list(prefix, signal);
  }
  listNames(prefix: string, signal?: AbortSignal): Promise<readonly string[]> {
    return this.#faults.around('listNames', prefix, () => this.#store.listNames(prefix, signal));
  }
  stat(key: string, signal?: AbortSignal): Promise<StoredFile | undefined> {
    return this.#faults.around('stat', key, () => this.#store.stat(key, signal));
  }
  deleteMany(keys: readonly string[], signal?: AbortSignal): Promise<void> {
    return this.#faults.around('deleteMany', keys[0] ?? '', () => this.#store.deleteMany(keys, signal));
  }
  freeBytes(signal?: AbortSignal): Promise<number | undefined> {
    return this.#faults.around('freeBytes', '', () => this.#store.freeBytes(signal));
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store[Symbol.asyncDispose]();
  }
}

class FaultyFile implements AppendableFile {
  readonly #key: string;
  readonly #file: AppendableFile;
  readonly #faults: Faults;

  constructor(key: string, file: AppendableFile, faults: Faults) {
    this.#key = key;
    this.#file = file;
    this.#faults = faults;
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes;
  }

  append(chunks: readonly Uint8Array[]): Promise<void> {
    const tear = async () => {
      const whole = Buffer.concat(chunks);
      await this.#file.append([whole.subarray(0, Math.floor(whole.length / 2))]);
    };
    return this.#faults.around('append', this.#key, () => this.#file.append(chunks), undefined, tear);
  }

  /** The file is closed in any case; the close may be reported as failed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
    await this.#faults.around('close', this.#key, () => Promise.resolve());
  }
}

class Faults {
  readonly #plan: FaultPlan;
  #isDead = false;

  constructor(plan: FaultPlan) {
    this.#plan = plan;
  }

  /** `undo`: releases what a call made whose answer gets lost. `tear`: does half of it. */
  async around<T>(
    call: string,
    key: string,
    act: () => Promise<T>,
    undo?: (made: T) => Promise<void>,
    tear?: () => Promise<void>,
  ): Promise<T> {
    if (this.#isDead) throw failure('DESTINATION_IO', 'killed', call, key);
    const planned = this.#plan.next(call, key);
    if (planned === undefined) return await act();
    switch (planned.fault) {
      case 'delay':
        await wait(planned.delayMs);
        return await act();
      case 'failBefore':
        throw failure('DESTINATION_IO', planned.fault, call, key);
      case 'failAfter': {
        const made = await act();
        await undo?.(made);
        throw failure('DESTINATION_IO', planned.fault, call, key);
      }
      case 'tear':
      case 'full':
        await tear?.();
        throw failure(
          planned.fault === 'full' ? 'DESTINATION_FULL' : 'DESTINATION_IO',
          planned.fault,
          call,
          key,
        );
      case 'kill':
        this.#isDead = true;
        await tear?.();
        throw failure('DESTINATION_IO', planned.fault, call, key);
      default:
        return assertNever(planned.fault);
    }
  }
}

function failure(
  code: 'DESTINATION_IO' | 'DESTINATION_FULL',
  fault: string,
  call: string,
  key: string,
): HoldfastError {
  return new HoldfastError(code, `cannot ${call} ${key}: the test wants it so (${fault})`);
}

async function dispose(made: AsyncDisposable): Promise<void> {
  await made[Symbol.asyncDispose]();
}

/**
 * A medium that fails as a plan says, around a real one. What each fault leaves at the store:
 *
 *   failBefore  nothing is done               then DESTINATION_IO
 *   failAfter   all is done, and durable      then DESTINATION_IO: the answer was lost
 *   tear        half of an append's or write's bytes, then DESTINATION_IO; any other call: as failBefore
 *   truncate    a part of the bytes, cut anywhere, then DESTINATION_IO; any other call: as failBefore
 *   duplicate   an append's or write's bytes twice, then DESTINATION_IO; any other call is done twice, and the second answers
 *   reorder     an append's or write's second half before its first, then DESTINATION_IO; any other call: another one that
 *               came later is done first
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

export const FAULTS = [
  'failBefore',
  'failAfter',
  'tear',
  'truncate',
  'duplicate',
  'reorder',
  'full',
  'delay',
  'kill',
] as const;
export type Fault = (typeof FAULTS)[number];
/** `share`: how much of the bytes `truncate` keeps, [0, 1). */
export type PlannedFault = { readonly fault: Fault; readonly delayMs: number; readonly share?: number };

/** Asked before every call, of every medium that follows it; `call` is the method's name, `append`, `write` and `close` an open file's. */
export interface FaultPlan {
  next(call: string, key: string): PlannedFault | undefined;
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
      return { fault, delayMs: random.between(0, longestDelayMs), share: random.next() };
    },
  };
}

/** One fault, at the call of that number, counted from 1 over every medium that follows the plan. */
export function planForCall(
  number: number,
  fault: Fault,
): FaultPlan & { hasFired(): boolean; disarm(): void } {
  let calls = 0;
  let isArmed = true;
  return {
    hasFired: () => calls >= number,
    /** Nothing fails any more. */
    disarm() {
      isArmed = false;
    },
    next() {
      if (!isArmed) return undefined;
      calls += 1;
      return calls === number ? { fault, delayMs: 30, share: (number * 0.37) % 1 } : undefined;
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
    return this.#faults.around(
      'createFile',
      key,
      async () => new FaultyWriter(key, await this.#store.createFile(key, signal), this.#faults),
      dispose,
    );
  }
  copyFile(
    from: string,
    to: string,
    onPart: (bytes: number) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<void> {
    return this.#faults.around('copyFile', to, () => this.#store.copyFile(from, to, onPart, signal));
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
    const put = (some: readonly Uint8Array[]) => this.#file.append(some);
    return this.#faults.around('append', this.#key, () => put(chunks), undefined, { chunks, put });
  }

  /** The file is closed in any case; the close may be reported as failed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
    await this.#faults.around('close', this.#key, () => Promise.resolve());
  }
}

class FaultyWriter implements StoredFileWriter {
  readonly #key: string;
  readonly #file: StoredFileWriter;
  readonly #faults: Faults;

  constructor(key: string, file: StoredFileWriter, faults: Faults) {
    this.#key = key;
    this.#file = file;
    this.#faults = faults;
  }

  write(chunks: readonly Uint8Array[]): Promise<void> {
    const put = (some: readonly Uint8Array[]) => this.#file.write(some);
    return this.#faults.around('write', this.#key, () => put(chunks), undefined, { chunks, put });
  }

  close(): Promise<void> {
    return this.#faults.around('close', this.#key, () => this.#file.close());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file[Symbol.asyncDispose]();
  }
}

/** Bytes that a call puts somewhere, so that it can put something else. */
type Bytes = {
  readonly chunks: readonly Uint8Array[];
  readonly put: (chunks: readonly Uint8Array[]) => Promise<void>;
};

class Faults {
  readonly #plan: FaultPlan;
  readonly #waiting: (() => void)[] = [];
  #isDead = false;

  constructor(plan: FaultPlan) {
    this.#plan = plan;
  }

  /** `undo`: releases what a call made whose answer gets lost. */
  async around<T>(
    call: string,
    key: string,
    act: () => Promise<T>,
    undo?: (made: T) => Promise<void>,
    bytes?: Bytes,
  ): Promise<T> {
    if (this.#isDead) throw failure('DESTINATION_IO', 'killed', call, key);
    const planned = this.#plan.next(call, key);
    try {
      if (planned === undefined) return await act();
      if (planned.fault === 'kill') this.#isDead = true;
      return await this.#act(planned, call, key, act, undo, bytes);
    } finally {
      for (const resume of this.#waiting.splice(0)) resume();
    }
  }

  async #act<T>(
    { fault, delayMs, share = 0.5 }: PlannedFault,
    call: string,
    key: string,
    act: () => Promise<T>,
    undo: ((made: T) => Promise<void>) | undefined,
    bytes: Bytes | undefined,
  ): Promise<T> {
    switch (fault) {
      case 'delay':
        await wait(delayMs);
        return await act();
      case 'failBefore':
        break;
      case 'failAfter': {
        const made = await act();
        await undo?.(made);
        break;
      }
      case 'duplicate': {
        const first = await act();
        await undo?.(first);
        const made = await act();
        if (bytes === undefined) return made;
        break;
      }
      case 'reorder':
        if (bytes === undefined) {
          await Promise.race([this.#anotherCall(), wait(delayMs)]);
          return await act();
        }
        await bytes.put(cut(bytes.chunks, 0.5).toReversed());
        break;
      case 'truncate':
        await bytes?.put(cut(bytes.chunks, share).slice(0, 1));
        break;
      case 'tear':
      case 'full':
      case 'kill':
        await bytes?.put(cut(bytes.chunks, 0.5).slice(0, 1));
        break;
      default:
        return assertNever(fault);
    }
    throw failure(fault === 'full' ? 'DESTINATION_FULL' : 'DESTINATION_IO', fault, call, key);
  }

  #anotherCall(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}

/** The bytes in two parts, the first with `share` of them. */
function cut(chunks: readonly Uint8Array[], share: number): readonly [Buffer, Buffer] {
  const whole = Buffer.concat(chunks);
  const at = Math.floor(whole.length * share);
  return [whole.subarray(0, at), whole.subarray(at)];
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

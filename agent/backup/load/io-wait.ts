/**
 * The share of the time in which something on this node waited for I/O, as Linux counts it: /proc/pressure/io, the line
 * `some`, whose `total` are microseconds. The copy's own waiting is in it.
 */
import { readFile } from 'node:fs/promises';
import { HoldfastError } from '../../../foundation/errors.ts';

const PRESSURE_FILE = '/proc/pressure/io';

/** Microseconds, out of the file's text; undefined when it is another format. Pure. */
export function parsePressure(text: string): bigint | undefined {
  const total = /^some .*\btotal=(\d+)/m.exec(text)?.[1];
  return total === undefined ? undefined : BigInt(total);
}

/** Measures from one call to the next. */
export class IoWait {
  readonly #onError: (error: unknown) => void;
  readonly #file: string;
  #last: { readonly waitedUs: bigint; readonly atMs: number } | undefined;

  /** `onError` is told of each time that the kernel does not tell. */
  constructor(onError: (error: unknown) => void, file: string = PRESSURE_FILE) {
    this.#onError = onError;
    this.#file = file;
  }

  /** In percent; undefined at the first call, and where the kernel does not tell. */
  async measure(nowMs: number): Promise<number | undefined> {
    const waitedUs = await this.#read();
    const last = this.#last;
    this.#last = waitedUs === undefined ? undefined : { waitedUs, atMs: nowMs };
    if (waitedUs === undefined || last === undefined || nowMs <= last.atMs) return undefined;
    return Math.min(100, Number(waitedUs - last.waitedUs) / 10 / (nowMs - last.atMs));
  }

  async #read(): Promise<bigint | undefined> {
    try {
      const waitedUs = parsePressure(await readFile(this.#file, 'utf8'));
      if (waitedUs !== undefined) return waitedUs;
      this.#onError(new HoldfastError('FORMAT_UNKNOWN', `${this.#file} has no time waited for I/O`));
    } catch (cause) {
      this.#onError(
        new HoldfastError('NOT_SUPPORTED', `${this.#file} cannot be read`, {
          cause,
          hint: 'Linux counts it since 4.20, unless it was started with psi=0 or a container hides it. Limit the commit latency.',
        }),
      );
    }
    return undefined;
  }
}

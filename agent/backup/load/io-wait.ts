/**
 * The share of the time in which something on this node waited for I/O, as Linux counts it: /proc/pressure/io, the line
 * `some`, whose `total` are microseconds. The copy's own waiting is in it.
 */
import { readFile } from 'node:fs/promises';

const PRESSURE_FILE = '/proc/pressure/io';

/** Microseconds, out of the file's text; undefined when it is another format. Pure. */
export function parsePressure(text: string): bigint | undefined {
  const total = /^some .*\btotal=(\d+)/m.exec(text)?.[1];
  return total === undefined ? undefined : BigInt(total);
}

/** Measures from one call to the next. */
export class IoWait {
  #last: { readonly waitedUs: bigint; readonly atMs: number } | undefined;

  /** In percent; undefined at the first call, and where the kernel does not tell. */
  async measure(nowMs: number): Promise<number | undefined> {
    const waitedUs = await readPressure();
    const last = this.#last;
    this.#last = waitedUs === undefined ? undefined : { waitedUs, atMs: nowMs };
    if (waitedUs === undefined || last === undefined || nowMs <= last.atMs) return undefined;
    return Math.min(100, Number(waitedUs - last.waitedUs) / 10 / (nowMs - last.atMs));
  }
}

async function readPressure(): Promise<bigint | undefined> {
  try {
    return parsePressure(await readFile(PRESSURE_FILE, 'utf8'));
  } catch {
    return undefined; // an older kernel, or one that was told not to count
  }
}

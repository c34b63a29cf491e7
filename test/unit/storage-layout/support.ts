/** A directory medium for one test, removed with it. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import type { TreeRoot } from '../../../storage-layout/tree.ts';

export const ROOT: TreeRoot = { clusterName: 'prod', clusterId: 1n };
export const ROUND = { tenantId: 1001n, round: 1n };
export const GROUP = 'orders_0';

export type TestMedium = AsyncDisposable & { readonly medium: Medium; readonly directory: string };

export async function openTestMedium(): Promise<TestMedium> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-layout-'));
  const medium = await openMedium(pathToFileURL(directory).href);
  return {
    medium,
    directory,
    async [Symbol.asyncDispose]() {
      await medium[Symbol.asyncDispose]();
      await rm(directory, { recursive: true });
    },
  };
}

/** `medium` with some of its members replaced. */
export function overriding(medium: Medium, members: Partial<Medium>): Medium {
  return new Proxy(medium, {
    get: (target, name) => {
      const value: unknown = name in members ? Reflect.get(members, name) : Reflect.get(target, name, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
}

/** The same bytes for the same seed: half of them compressible. */
export function sampleBytes(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < length; at += 1) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    bytes[at] = at % 64 < 32 ? state >>> 24 : 0x61 + (at % 7);
  }
  return bytes;
}

export async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
}

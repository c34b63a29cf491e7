/** A medium that carries the keys of its encrypted files. All else is the medium's own. */
import { type DataKey, type KeyRing, ringOf } from '../encryption/key-ring.ts';
import type { Medium } from './medium.ts';
import { openMedium } from './open.ts';

/** Opens the medium that `uri` names, with the keys of its files. Throws what `openMedium` throws. */
export async function openKeyedMedium(
  uri: string,
  keys: readonly DataKey[] | undefined,
  signal?: AbortSignal,
): Promise<Medium> {
  return withDataKeys(await openMedium(uri, signal), keys);
}

/** `medium` with these keys, or as it is when there are none. */
export function withDataKeys(medium: Medium, keys: readonly DataKey[] | undefined): Medium {
  return keys === undefined || keys.length === 0 ? medium : withKeys(medium, ringOf(keys));
}

/** `medium` with these keys; disposing either disposes the other. */
export function withKeys(medium: Medium, keys: KeyRing): Medium {
  return {
    keys,
    displayUri: medium.displayUri,
    capabilities: medium.capabilities,
    read: async (...given) => await medium.read(...given),
    readRange: async (...given) => await medium.readRange(...given),
    createExclusive: async (...given) => await medium.createExclusive(...given),
    replace: async (...given) => await medium.replace(...given),
    createFile: async (...given) => await medium.createFile(...given),
    copyFile: async (...given) => await medium.copyFile(...given),
    createAppendable: async (...given) => await medium.createAppendable(...given),
    makeDurable: async (...given) => await medium.makeDurable(...given),
    list: (...given) => medium.list(...given),
    listNames: async (...given) => await medium.listNames(...given),
    stat: async (...given) => await medium.stat(...given),
    deleteMany: async (...given) => await medium.deleteMany(...given),
    freeBytes: async (...given) => await medium.freeBytes(...given),
    [Symbol.asyncDispose]: async () => await medium[Symbol.asyncDispose](),
  };
}

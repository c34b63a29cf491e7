/** clog_info is for people: writing it must never hold up archiving. */
import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { noteInClogInfo } from '../../../../agent/archive/clog-info.ts';
import type { LogPlace } from '../../../../agent/archive/place.ts';
import { isError, toHoldfastError } from '../../../../foundation/errors.ts';
import type { Medium } from '../../../../storage-layout/media/medium.ts';
import { openMedium } from '../../../../storage-layout/media/open.ts';
import { tree } from '../../../../storage-layout/tree.ts';
import { makeTestDirectory } from '../../../support/postgres.ts';

const ROOT = { clusterName: 'hf', clusterId: 1n };
const SERVER = { serverId: 1n, ip: '127.0.0.1', port: 2889 };
const ENTRY = { tenantId: 1001n, partitionGroup: 'p0', round: 1n, epoch: 1n, sinceUs: 1n };

let directory: string;
let medium: Medium;

beforeEach(async () => {
  directory = await makeTestDirectory('clog-info');
  medium = await openMedium(`file://${directory}`);
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

function placeOn(store: Medium): LogPlace {
  return { medium: store, root: ROOT, round: { tenantId: 1001n, round: 1n }, group: 'p0' };
}

/** Another destination, whose reads never come back. */
function hanging(store: Medium): Medium {
  return new Proxy(store, {
    get(target, name) {
      if (name === 'displayUri') return 'file:///hangs';
      if (name === 'read') return () => new Promise(() => undefined);
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === 'function' ? (value as () => unknown).bind(target) : value; // a method of the store
    },
  });
}

describe('noting an archiver in clog_info', () => {
  test('a destination that hangs is left alone when the time is up, and holds up no other', async () => {
    const short = AbortSignal.timeout(100);
    const failure = await noteInClogInfo(placeOn(hanging(medium)), SERVER, ENTRY, short).catch(
      (error: unknown) => toHoldfastError(error),
    );
    expect(isError(failure, 'TIMEOUT')).toBe(true);
    await noteInClogInfo(placeOn(medium), SERVER, ENTRY, AbortSignal.timeout(5000));
    expect(await medium.stat(tree.clogInfo(ROOT, SERVER))).toBeDefined();
  });
});

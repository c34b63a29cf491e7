import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { toLsn, toTimeline } from '../../../foundation/lsn.ts';
import {
  type ChangeMapParts,
  decodeChanges,
  encodeChangeMap,
  type ForkChanges,
  type LogChange,
  readChangeMap,
} from '../../../storage-layout/clog/change-map.ts';
import { type LogFileFacts, readLogIndex, writeLogIndex } from '../../../storage-layout/clog/index.ts';
import { CHUNK_BYTES } from '../../../storage-layout/records/record-file.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { collect, GROUP, openTestMedium, ROOT, ROUND } from './support.ts';

const SOURCE = { file: 'test' };
const NOTHING: ChangeMapParts = {
  forks: [],
  droppedRelations: [],
  createdDatabases: [],
  droppedDatabases: [],
  unknownSpecial: undefined,
  walLevelMinimal: false,
};

function fork(
  pages: readonly (readonly [macroblock: number, pages: Uint8Array])[],
  relation = 7,
): ForkChanges {
  return {
    tablespace: 1663,
    database: 5,
    relation,
    fork: 0,
    created: false,
    truncatedTo: undefined,
    macroblocks: pages.map(([macroblock, bits]) => ({ macroblock, pages: bits })),
  };
}

function decodeAll(payloads: readonly Buffer[]): LogChange[] {
  return payloads.flatMap((payload) => decodeChanges({ payload, offset: 0 }, SOURCE));
}

const FACTS: LogFileFacts = {
  fileId: 1n,
  epoch: 1n,
  timeline: toTimeline(1),
  begin: toLsn(0n),
  end: toLsn(0n),
  systemIdentifier: 1n,
  segmentSizeBytes: 16 * 2 ** 20,
  acceptedBytes: 100,
  blocks: [],
};

describe('a change map', () => {
  it('is read as it was written, whatever its pages', () => {
    const bits = fc
      .uint8Array({ minLength: 32, maxLength: 32 })
      .filter((pages) => pages.some((byte) => byte > 0));
    const runs = fc
      .tuple(fc.nat(255), fc.integer({ min: 1, max: 256 }))
      .map(([begin, count]) =>
        Uint8Array.from({ length: 32 }, (_, byte) =>
          Array.from({ length: 8 }, (__, bit) => byte * 8 + bit).reduce(
            (sum, page) => (page >= begin && page < begin + count ? sum | (1 << (page & 7)) : sum),
            0,
          ),
        ),
      );
    fc.assert(
      fc.property(
        fc.array(fc.oneof(bits, runs), { maxLength: 20 }),
        fc.boolean(),
        fc.option(fc.nat()),
        (maps, created, cut) => {
          const written = {
            ...fork(maps.map((pages, index) => [index * 3, pages] as const)),
            created,
            truncatedTo: cut ?? undefined,
          };
          const { payloads, summary } = encodeChangeMap({ ...NOTHING, forks: [written] });
          expect(decodeAll(payloads)).toEqual([{ kind: 'fork', ...written }]);
          const pageCount = maps.reduce(
            (sum, pages) =>
              sum + pages.reduce((count, byte) => count + byte.toString(2).replaceAll('0', '').length, 0),
            0,
          );
          expect(summary).toMatchObject({ pageCount, forkCount: 1 });
        },
      ),
    );
  });

  it('keeps every record within a mebibyte and a fork in order over several', () => {
    const pages = Uint8Array.from({ length: 32 }, (_, byte) => (byte % 2 === 0 ? 0x55 : 0xaa));
    const maps = Array.from({ length: 100_000 }, (_, index) => [index, pages] as const);
    const { payloads } = encodeChangeMap({ ...NOTHING, forks: [fork([[9, pages]], 6), fork(maps)] });
    expect(payloads.length).toBeGreaterThan(3);
    expect(Math.max(...payloads.map((payload) => payload.length))).toBeLessThanOrEqual(CHUNK_BYTES);
    const changes = decodeAll(payloads);
    const read = changes.flatMap((change) =>
      change.kind === 'fork' && change.relation === 7 ? change.macroblocks : [],
    );
    expect(read.map((map) => map.macroblock)).toEqual(maps.map(([macroblock]) => macroblock));
    expect(changes[0]).toMatchObject({ relation: 6 });
  });

  it('stands in the index file, is streamed from it, and its summary is known without it', async () => {
    await using opened = await openTestMedium();
    const { medium } = opened;
    const changeMap: ChangeMapParts = {
      forks: [fork([[0, new Uint8Array(32).fill(255)]])],
      droppedRelations: [{ tablespace: 1, database: 2, relation: 3 }],
      createdDatabases: [{ tablespace: 1, database: 2 }],
      droppedDatabases: [{ tablespace: 1, database: 4 }],
      unknownSpecial: { count: 2, first: toLsn(9n), rmgr: 200, info: 1 },
      walLevelMinimal: true,
    };
    await writeLogIndex(medium, ROOT, ROUND, GROUP, {
      ...FACTS,
      checkpoints: [],
      restorePoints: [],
      changeMap,
    });
    const index = await readLogIndex(medium, ROOT, ROUND, GROUP, FACTS);
    expect(index.changes).toEqual({
      pageCount: 256,
      forkCount: 1,
      unknownSpecial: changeMap.unknownSpecial,
      walLevelMinimal: true,
    });
    const read = await collect(readChangeMap(medium, tree.logIndex(ROOT, ROUND, GROUP, 1n, 1n)));
    expect(read).toEqual([
      ...[...changeMap.forks].map((one) => ({ kind: 'fork', ...one })),
      { kind: 'droppedRelation', tablespace: 1, database: 2, relation: 3 },
      { kind: 'createdDatabase', tablespace: 1, database: 2 },
      { kind: 'droppedDatabase', tablespace: 1, database: 4 },
    ]);
  });

  it('that is malformed is refused at any place', () => {
    const { payloads } = encodeChangeMap({ ...NOTHING, forks: [fork([[0, new Uint8Array(32).fill(1)]])] });
    const payload = payloads[0] ?? Buffer.alloc(0);
    for (let length = 1; length < payload.length; length += 1)
      expect(() => decodeChanges({ payload: payload.subarray(0, length), offset: 0 }, SOURCE)).toThrow();
    for (const [at, value] of [
      [0, 9],
      [1, 4],
      [2, 4],
      [3, 1],
    ] as const) {
      const changed = Buffer.from(payload);
      changed[at] = value;
      expect(() => decodeChanges({ payload: changed, offset: 0 }, SOURCE)).toThrow(/change/);
    }
  });
});

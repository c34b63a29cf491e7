import { describe, expect, test } from 'vitest';
import { findRecordAtOrAfter, findStopBeforeTime } from '../../../../engine/postgres/wal/search.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import { BEGIN, optionsFrom, piecesOf, transactionEnd, WalBuilder } from './build-wal.ts';

/** Commits at 10, 30, 20, an abort at 40, a prepared commit at 50 s. */
function log() {
  const builder = new WalBuilder();
  const ends = [
    [0x00, 10n],
    [0x00, 30n],
    [0x00, 20n],
    [0x20, 40n],
    [0x30, 50n],
  ] as const;
  const placed = ends.map(([info, seconds]) => {
    builder.add({ rmgr: 10, main: Buffer.alloc(5000) });
    return builder.add(transactionEnd({ info, xid: 3, timeUs: seconds * 1_000_000n }));
  });
  return { builder, placed };
}

describe('searching the log', () => {
  test('finds the first commit or abort after a time, and the newest before it', async () => {
    const { builder, placed } = log();
    const find = (seconds: bigint) =>
      findStopBeforeTime(piecesOf(BEGIN, builder.bytes()), optionsFrom(), seconds * 1_000_000n);
    expect(await find(5n)).toEqual({ stop: placed[0]?.begin, lastCommitUs: undefined });
    expect(await find(10n)).toEqual({ stop: placed[1]?.begin, lastCommitUs: 10_000_000n });
    expect(await find(25n)).toEqual({ stop: placed[1]?.begin, lastCommitUs: 10_000_000n });
    expect(await find(30n)).toEqual({ stop: placed[3]?.begin, lastCommitUs: 30_000_000n });
    expect(await find(49n)).toEqual({ stop: placed[4]?.begin, lastCommitUs: 40_000_000n });
    expect(await find(50n)).toBeUndefined();
  });

  test('finds the first record at or after a position', async () => {
    const { builder } = log();
    const [first, second] = builder.placed;
    const find = (lsn: bigint) =>
      findRecordAtOrAfter(piecesOf(BEGIN, builder.bytes()), optionsFrom(), toLsn(lsn));
    expect(await find(BEGIN)).toMatchObject({ ...first, rmgr: 10, info: 0, xid: 0 });
    expect(await find((first?.begin ?? 0n) + 1n)).toMatchObject({ ...second, rmgr: 1, xid: 3 });
    expect(await find(builder.position)).toBeUndefined();
  });

  test('leaves out what the first pieces hold before the entry', async () => {
    const { builder } = log();
    const third = toLsn(builder.placed[2]?.begin ?? 0n);
    const pieces = piecesOf(BEGIN, builder.bytes(), 4096);
    expect(await findRecordAtOrAfter(pieces, optionsFrom(third), toLsn(BEGIN))).toMatchObject({
      begin: third,
    });
  });

  test('reads no further than the stop, and heeds its signal', async () => {
    const { builder } = log();
    let given = 0;
    const counted = async function* () {
      for await (const piece of piecesOf(BEGIN, builder.bytes())) {
        given += 1;
        yield piece;
      }
    };
    await findStopBeforeTime(counted(), optionsFrom(), 0n);
    expect(given).toBe(6);
    const aborted = AbortSignal.abort(new Error('enough'));
    await expect(findStopBeforeTime(counted(), optionsFrom(), 0n, aborted)).rejects.toThrow('enough');
  });
});

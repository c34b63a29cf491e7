import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { RecordDecoder } from '../../../../engine/postgres/wal/blocks.ts';
import { PAGE_BYTES, PAGE_MAGIC } from '../../../../engine/postgres/wal/page.ts';
import { WalParser, type WalParserOptions } from '../../../../engine/postgres/wal/parser.ts';
import { copyRecord, type WalRecord } from '../../../../engine/postgres/wal/records.ts';
import { HoldfastError, isError } from '../../../../foundation/errors.ts';
import { type Lsn, toLsn, toTimeline } from '../../../../foundation/lsn.ts';
import { BEGIN, integers, optionsFrom, SEGMENT_BYTES, SYSTEM, VERSIONS, WalBuilder } from './build-wal.ts';

type Outcome = {
  readonly records: readonly WalRecord[];
  readonly error: string | undefined;
  readonly position: Lsn;
  readonly endOfRecords: Lsn;
  readonly unfinished: Lsn | undefined;
};

/** Parses `bytes` cut at `cuts` (ascending offsets). */
function parse(
  bytes: Uint8Array,
  options: WalParserOptions = optionsFrom(),
  cuts: readonly number[] = [],
): Outcome {
  const decoder = new RecordDecoder();
  const records: WalRecord[] = [];
  const parser = new WalParser(options, (record) => {
    records.push(copyRecord(record, decoder));
    return true;
  });
  let error: string | undefined;
  try {
    let from = 0;
    for (const cut of [...cuts, bytes.length]) {
      parser.push(parser.position, bytes.subarray(from, cut));
      from = cut;
    }
  } catch (thrown) {
    if (!isError(thrown, 'WAL_UNREADABLE', 'SYSTEM_IDENTIFIER_MISMATCH')) throw thrown;
    error = `${thrown.code}: ${thrown.message}`;
  }
  return {
    records,
    error,
    position: parser.position,
    endOfRecords: parser.endOfRecords,
    unfinished: parser.unfinishedRecordBegin,
  };
}

function places(outcome: Outcome) {
  return outcome.records.map(({ begin, end }) => ({ begin, end }));
}

/** Four segments with all that may happen: whole and split records, a header split over pages, a switch, an overwrite. */
function mixedLog(version = VERSIONS[3] ?? 17): WalBuilder {
  const log = new WalBuilder(version);
  log.add({ rmgr: 10, xid: 700, main: Buffer.from('first') });
  log.fillUntil(8); // the next record's header is split 8 to 16
  log.add({ rmgr: 10, xid: 701, main: Buffer.alloc(100, 1), origin: 3, topLevelXid: 699 });
  log.add({ rmgr: 21, main: Buffer.alloc(2 * PAGE_BYTES + 123, 2) });
  log.add({ rmgr: 10, main: Buffer.alloc(PAGE_BYTES, 3) }); // goes over into the next segment
  log.add({ rmgr: 130, main: Buffer.alloc(1, 4) });
  log.switchSegment();
  log.add({ rmgr: 11, main: Buffer.alloc(33, 5) });
  log.fillUntil(48);
  log.abandon({ rmgr: 10, main: Buffer.alloc(500, 6) });
  log.add({ rmgr: 0, info: 0xd0, main: Buffer.alloc(16, 7) });
  log.add({ rmgr: 10, xid: 702, main: Buffer.from('last') });
  return log;
}

describe('the WAL parser', () => {
  test.each(VERSIONS)('hands out every record of version %i where it was laid down', (version) => {
    const log = mixedLog(version);
    const outcome = parse(log.bytes());
    expect(outcome.error).toBeUndefined();
    expect(places(outcome)).toEqual(log.placed);
    expect(new Set(outcome.records.map((record) => record.version))).toEqual(new Set([version]));
    expect(outcome.endOfRecords).toBe(log.position);
    expect(outcome.unfinished).toBeUndefined();
    const split = outcome.records.find((record) => record.xid === 701);
    expect(split).toMatchObject({ origin: 3, topLevelXid: 699, rmgr: 10, lengthBytes: 24 + 3 + 5 + 2 + 100 });
    expect(split?.mainData).toEqual(new Uint8Array(100).fill(1));
  });

  test('reads the head of a segment as a server of version 17 wrote it', () => {
    const bytes = Buffer.from(
      [
        '16d10600010000000000000200000000', // magic, long + removable, timeline 1, 0/2000000
        '0000000000000000433a20a199f1006b', // nothing continued; system identifier
        '0000000100200000', // 16 MiB segments, 8 KiB pages
        '1e0000000000000018197201000000', // 30 bytes, no transaction, behind 0/1721918
        '00e00000005759f8b3ff04010000000000', // checkpoint redo, checksum, wal_level 1, padding
        '320000000000000028000002000000001008', // 50 bytes, behind 0/2000028, running transactions
        '00008f8ad921ff18000000000000000000391b39e2020000e2020000e1020000',
        '000000000000',
      ].join(''),
      'hex',
    );
    const outcome = parse(bytes, {
      segmentSizeBytes: 16_777_216,
      timeline: toTimeline(1),
      systemIdentifier: 7_710_428_204_193_823_299n,
      begin: toLsn(0x200_0000n),
    });
    expect(outcome.error).toBeUndefined();
    expect(outcome.records).toMatchObject([
      {
        begin: 0x200_0028n,
        end: 0x200_0048n,
        previous: 0x172_1918n,
        rmgr: 0,
        info: 0xe0,
        mainData: new Uint8Array([1, 0, 0, 0]),
      },
      { begin: 0x200_0048n, end: 0x200_0080n, previous: 0x200_0028n, rmgr: 8, info: 0x10, lengthBytes: 50 },
    ]);
  });

  test('gives the same however the log is cut into pushes', () => {
    const log = mixedLog();
    const bytes = log.bytes();
    const whole = parse(bytes);
    fc.assert(
      fc.property(fc.array(fc.nat(bytes.length), { maxLength: 40 }), (cuts) => {
        expect(
          parse(
            bytes,
            optionsFrom(),
            cuts.sort((a, b) => a - b),
          ),
        ).toEqual(whole);
      }),
      { numRuns: 60 },
    );
    expect(
      parse(
        bytes,
        optionsFrom(),
        Array.from({ length: bytes.length }, (_, at) => at),
      ),
    ).toEqual(whole);
  });

  test('gives the same for damaged logs however they are cut, and never a wrong record', () => {
    const log = mixedLog();
    const whole = parse(log.bytes());
    fc.assert(
      fc.property(
        fc.nat(log.bytes().length * 8 - 1),
        fc.array(fc.nat(log.bytes().length), { maxLength: 20 }),
        (bit, cuts) => {
          const bytes = log.bytes();
          bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          const damaged = parse(bytes);
          // A record that claims to be longer than what is left is unfinished, not wrong.
          if (damaged.error === undefined && damaged.unfinished === undefined) expect(damaged).toEqual(whole);
          else expect(damaged.records).toEqual(whole.records.slice(0, damaged.records.length));
          const cut = parse(
            bytes,
            optionsFrom(),
            cuts.sort((a, b) => a - b),
          );
          expect({ records: cut.records, error: cut.error }).toEqual({
            records: damaged.records,
            error: damaged.error,
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  test('finds every flipped bit of a record and of what matters in a page header', () => {
    const log = new WalBuilder();
    const { begin, end } = log.add({ rmgr: 10, xid: 9, main: Buffer.from('0123456789') });
    const from = Number(begin - BEGIN);
    const recordEnd = from + 24 + 2 + 10;
    expect(Number(end - BEGIN)).toBe(Math.ceil(recordEnd / 8) * 8);
    const harmless = (offset: number) => offset === 2 || (offset >= 16 && offset < 24) || offset >= recordEnd;
    const missed: number[] = [];
    for (let bit = 0; bit < log.bytes().length * 8; bit += 1) {
      const bytes = log.bytes();
      bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const outcome = parse(bytes);
      const found = outcome.error !== undefined || outcome.records.length === 0;
      if (!found && !harmless(bit >> 3)) missed.push(bit);
    }
    expect(missed).toEqual([]);
  });

  test('knows at every truncation what is whole and what is begun', () => {
    const log = mixedLog();
    const bytes = log.bytes();
    const { records } = parse(bytes);
    for (let length = 0; length <= bytes.length; length += length % 500 < 60 ? 1 : 97) {
      const outcome = parse(bytes.subarray(0, length));
      const position = BEGIN + BigInt(length);
      expect(outcome.error).toBeUndefined();
      expect(outcome.position).toBe(position);
      expect(outcome.endOfRecords <= position).toBe(true);
      const whole = records.filter((record) =>
        record.info === 0x40 ? record.begin + 24n <= position : record.end <= position,
      );
      expect(outcome.records).toEqual(whole);
      if (outcome.unfinished !== undefined) {
        expect(outcome.unfinished).toBeGreaterThanOrEqual(outcome.endOfRecords);
        expect(outcome.unfinished).toBeLessThan(position);
      }
    }
  });

  test('goes on where another one stopped: at the unfinished record, or at the end of records', () => {
    const log = mixedLog();
    const bytes = log.bytes();
    const { records } = parse(bytes);
    for (let length = 40; length <= bytes.length; length += 104) {
      const first = parse(bytes.subarray(0, length));
      const begin = first.unfinished ?? first.endOfRecords;
      const rest = parse(bytes.subarray(Number(begin - BEGIN)), {
        ...optionsFrom(begin),
        version: log.version,
      });
      expect(rest.error).toBeUndefined();
      expect([...first.records, ...rest.records].map((record) => record.begin)).toEqual(
        records.map((record) => record.begin),
      );
    }
  });

  test('skips the rest of a record at the head of the segment where it begins', () => {
    const log = mixedLog();
    const begin = BEGIN + BigInt(SEGMENT_BYTES);
    const whole = parse(log.bytes());
    const rest = log.bytes().subarray(SEGMENT_BYTES);
    const outcome = parse(rest, optionsFrom(begin));
    expect(outcome.error).toBeUndefined();
    expect(outcome.records).toEqual(whole.records.filter((record) => record.begin >= begin));
    expect(parse(rest.subarray(0, 60), optionsFrom(begin)).unfinished).toBe(begin);
    expect(outcome.records[0]?.begin).toBeGreaterThan(begin + 40n);
  });

  test('enters the zeros behind a switch, also at a page border, and refuses what is not zero there', () => {
    const log = new WalBuilder();
    log.add({ rmgr: 10, main: Buffer.from('x') });
    const { begin, end } = log.switchSegment();
    log.add({ rmgr: 10, main: Buffer.from('y') });
    const bytes = log.bytes();
    for (const entry of [begin + 24n, BEGIN + BigInt(PAGE_BYTES), end - 8n]) {
      const outcome = parse(bytes.subarray(Number(entry - BEGIN)), optionsFrom(entry));
      expect(outcome.error).toBeUndefined();
      expect(outcome.records.map((record) => record.begin)).toEqual([end + 40n]);
    }
    const entry = Number(begin - BEGIN) + 24;
    for (const at of [entry + 5, entry + 3000]) {
      const dirty = log.bytes();
      dirty[at] = 1;
      for (const cuts of [[], [1], [4], [12]])
        expect(parse(dirty.subarray(entry), optionsFrom(begin + 24n), cuts).error).toMatch(/record length 0/);
    }
  });

  test('takes what a crash left behind a switch for padding', () => {
    const log = new WalBuilder();
    const { begin, end } = log.switchSegment();
    log.add({ rmgr: 10, main: Buffer.from('y') });
    const bytes = log.bytes();
    bytes.fill(0xee, PAGE_BYTES, SEGMENT_BYTES);
    expect(parse(bytes).records.map((record) => record.begin)).toEqual([begin, end + 40n]);
  });

  test('drops the part of a record whose continuation was overwritten', () => {
    const log = new WalBuilder();
    log.fillUntil(64);
    const part = log.abandon({ rmgr: 10, main: Buffer.alloc(5000) });
    expect(parse(log.bytes()).unfinished).toBe(part);
    log.add({ rmgr: 0, info: 0xd0, main: Buffer.alloc(16) });
    const outcome = parse(log.bytes());
    expect(outcome.error).toBeUndefined();
    expect(places(outcome)).toEqual(log.placed);
    expect(outcome.unfinished).toBeUndefined();
  });

  test('drops a skipped record whose continuation was overwritten', () => {
    const log = new WalBuilder();
    log.fillUntil(64);
    log.abandon({ rmgr: 10, main: Buffer.alloc(2 * PAGE_BYTES) });
    // A server that was promoted in between: the entry is the segment whose head goes on with a lost record.
    const bytes = log.bytes();
    bytes.writeUInt16LE(bytes.readUInt16LE(2) | 1, 2);
    bytes.writeUInt32LE(PAGE_BYTES * 2, 16);
    log.add({ rmgr: 0, info: 0xd0, main: Buffer.alloc(16) });
    const next = log.bytes().subarray(PAGE_BYTES);
    const outcome = parse(Buffer.concat([bytes, next]));
    expect(outcome.error).toBeUndefined();
    expect(outcome.records.map((record) => record.info)).toEqual([0xd0]);
  });

  test('refuses an unknown magic by name and position', () => {
    const bytes = mixedLog().bytes();
    bytes.writeUInt16LE(0xd121, PAGE_BYTES);
    const { error, records } = parse(bytes);
    expect(error).toBe(
      'WAL_UNREADABLE: log of PostgreSQL 17 at 0/FFFFA000: page magic D121 is of no known version',
    );
    expect(records.length).toBeGreaterThan(0);
  });

  test('refuses another version, another system, another timeline and other sizes', () => {
    const changed = (change: (bytes: Buffer) => void) => {
      const bytes = mixedLog().bytes();
      change(bytes);
      return parse(bytes).error;
    };
    expect(changed((bytes) => bytes.writeUInt16LE(PAGE_MAGIC[16], PAGE_BYTES))).toMatch(
      /a page of version 16 follows one of version 17/,
    );
    expect(changed((bytes) => bytes.writeBigUInt64LE(SYSTEM + 1n, 24))).toMatch(
      /^SYSTEM_IDENTIFIER_MISMATCH/,
    );
    expect(changed((bytes) => bytes.writeUInt32LE(2, 4))).toMatch(/page of timeline 2/);
    expect(changed((bytes) => bytes.writeUInt32LE(16_777_216, 32))).toMatch(/segment size 16777216/);
    expect(changed((bytes) => bytes.writeUInt32LE(4096, 36))).toMatch(/WAL page size 4096/);
    expect(changed((bytes) => bytes.writeUInt16LE(0, 2))).toMatch(/short page header at the start/);
    expect(changed((bytes) => bytes.writeUInt16LE(3, PAGE_BYTES + 2))).toMatch(/long page header inside/);
  });

  test('lets pages of the ancestor timeline come first, and never afterwards', () => {
    const bytes = mixedLog().bytes();
    bytes.writeUInt32LE(2, PAGE_BYTES + 4);
    const options = { ...optionsFrom(), timeline: toTimeline(2) };
    expect(parse(bytes.subarray(0, 2 * PAGE_BYTES), options).error).toBeUndefined();
    expect(parse(bytes, options).error).toMatch(/page of timeline 1 where timeline 2 is read/);
  });

  test('tells old pages of a recycled segment from the log', () => {
    const log = new WalBuilder();
    log.fillUntil(0);
    const old = new WalBuilder(17, BEGIN - BigInt(SEGMENT_BYTES));
    old.fillUntil(0);
    old.add({ rmgr: 10, main: Buffer.alloc(10) });
    const bytes = Buffer.concat([log.bytes(), old.bytes().subarray(PAGE_BYTES)]);
    const outcome = parse(bytes);
    expect(outcome.error).toMatch(/page address 0\/FFFF2000 is another page's/);
    expect(outcome.endOfRecords).toBe(BEGIN + BigInt(PAGE_BYTES));
  });

  test('tells an old record from the next one by its link', () => {
    const log = new WalBuilder();
    log.add({ rmgr: 10, main: Buffer.alloc(10) });
    const other = new WalBuilder();
    for (const length of [30, 30, 10]) other.add({ rmgr: 10, main: Buffer.alloc(length) });
    const third = Number((other.placed[2]?.begin ?? 0n) - BEGIN);
    const { error } = parse(Buffer.concat([log.bytes(), other.bytes().subarray(third)]));
    expect(error).toBe(
      'WAL_UNREADABLE: log of PostgreSQL 17 at 0/FFFF8050: the record links back to 0/FFFF8060, not to 0/FFFF8028',
    );
  });

  test('reports a record that the next page does not continue', () => {
    const log = mixedLog();
    const bytes = log.bytes();
    const continuation = PAGE_BYTES + 16;
    bytes.writeUInt32LE(bytes.readUInt32LE(continuation) + 8, continuation);
    expect(parse(bytes).error).toMatch(/bytes of the record are missing, but the next page continues one of/);
    const fresh = new WalBuilder();
    fresh.fillUntil(0);
    fresh.add({ rmgr: 10, main: Buffer.alloc(1) });
    const orphan = fresh.bytes();
    orphan.writeUInt16LE(1, PAGE_BYTES + 2);
    orphan.writeUInt32LE(100, PAGE_BYTES + 16);
    expect(parse(orphan).error).toMatch(/none is unfinished before it/);
  });

  test('takes zeros after a record for the end of the log', () => {
    const log = new WalBuilder();
    log.add({ rmgr: 10, main: Buffer.alloc(10) });
    expect(parse(Buffer.concat([log.bytes(), Buffer.alloc(64)])).error).toMatch(/record length 0/);
  });

  test('stays failed after an error', () => {
    const parser = new WalParser(optionsFrom(), () => true);
    const push = () => parser.push(toLsn(BEGIN), integers([64, 1], [64, 0], [64, 0], [64, 0], [64, 0]));
    expect(push).toThrow(HoldfastError);
    expect(push).toThrow(/magic 0001/);
  });

  test('stops when it is told to, and then takes no more', () => {
    const log = mixedLog();
    const seen: Lsn[] = [];
    const parser = new WalParser(optionsFrom(), (record) => {
      seen.push(record.begin);
      return seen.length < 3;
    });
    parser.push(toLsn(BEGIN), log.bytes());
    parser.push(toLsn(BEGIN), Buffer.from('anything'));
    expect(seen).toEqual(log.placed.slice(0, 3).map((placed) => placed.begin));
    expect(parser.stopped).toBe(true);
  });
});

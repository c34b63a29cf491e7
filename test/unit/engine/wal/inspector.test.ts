import { describe, expect, test } from 'vitest';
import type { LogEvent } from '../../../../engine/engine.ts';
import { createLogInspector } from '../../../../engine/postgres/wal/inspector.ts';
import { toLsn } from '../../../../foundation/lsn.ts';
import {
  BEGIN,
  integers,
  optionsFrom,
  type RecordSpec,
  SEGMENT_BYTES,
  type TransactionSpec,
  transactionEnd,
  VERSIONS,
  WalBuilder,
} from './build-wal.ts';

const TIME_US = 1_800_000_000_123_456n;
const PG_TIME = TIME_US - 946_684_800_000_000n;

function eventsOf(log: WalBuilder): readonly LogEvent[] {
  const inspector = createLogInspector(optionsFrom());
  inspector.push(toLsn(BEGIN), log.bytes());
  expect(inspector.position).toBe(log.position);
  const events = inspector.takeEvents();
  expect(inspector.takeEvents()).toEqual([]);
  return events;
}

function eventOf(spec: RecordSpec, version = VERSIONS[3]) {
  const log = new WalBuilder(version);
  const placed = log.add(spec);
  const events = eventsOf(log);
  for (const event of events) expect({ begin: event.begin, end: event.end }).toEqual(placed);
  expect(events.length).toBeLessThan(2);
  const [event] = events;
  if (event === undefined) return undefined;
  const { begin: _begin, end: _end, ...rest } = event;
  return rest;
}

describe('the log inspector', () => {
  test.each(VERSIONS)('finds commits and aborts of version %i with everything they may hold', (version) => {
    const statistic = Buffer.alloc(version >= 18 ? 16 : 12, 0xff);
    const full: Omit<TransactionSpec, 'info'> = {
      xid: 0,
      timeUs: TIME_US,
      subxids: [901, 902],
      dropped: [[1663, 5, 16_400]],
      ...(version >= 15 ? { statistics: [statistic, statistic] } : {}),
      twoPhaseXid: 900,
      gid: 'a prepared one',
      origin: true,
    };
    const ended = (kind: string, xid: number) => ({ kind, xid, timeUs: TIME_US });
    expect(eventOf(transactionEnd({ info: 0x00, xid: 900, timeUs: TIME_US }), version)).toEqual(
      ended('commit', 900),
    );
    expect(eventOf(transactionEnd({ info: 0x20, xid: 901, timeUs: TIME_US }), version)).toEqual(
      ended('abort', 901),
    );
    const { subxids } = full;
    expect(eventOf(transactionEnd({ ...full, info: 0x30, invalidations: 3 }), version)).toEqual({
      ...ended('commit', 900),
      subxids,
    });
    expect(eventOf(transactionEnd({ ...full, info: 0x40 }), version)).toEqual({
      ...ended('abort', 900),
      subxids,
    });
    expect(eventOf({ rmgr: 1, info: 0x10, main: Buffer.alloc(80) }, version)).toBeUndefined(); // PREPARE
  });

  test('finds the prepared transaction without knowing the version', () => {
    for (const version of [17, 18] as const) {
      const log = new WalBuilder(version);
      const { end } = log.add({ rmgr: 10, main: Buffer.alloc(8) });
      const statistics = [Buffer.alloc(version >= 18 ? 16 : 12, 1)];
      log.add(transactionEnd({ info: 0x30, xid: 0, timeUs: TIME_US, statistics, twoPhaseXid: 31, gid: 'g' }));
      const inspector = createLogInspector(optionsFrom(end));
      inspector.push(end === BEGIN ? toLsn(BEGIN) : toLsn(end), log.bytes().subarray(Number(end - BEGIN)));
      expect(inspector.takeEvents()).toMatchObject([{ kind: 'commit', xid: 31 }]);
    }
  });

  test('refuses a commit whose parts are not as long as it is', () => {
    const spec = transactionEnd({ info: 0x00, xid: 900, timeUs: TIME_US, subxids: [1, 2, 3] });
    const main = Buffer.from(spec.main ?? []);
    main.writeUInt32LE(4, 12);
    expect(() => eventOf({ ...spec, main })).toThrow(/commit or abort record cannot be decoded/);
    expect(() => eventOf({ rmgr: 1, info: 0, main: Buffer.alloc(3) })).toThrow(/main data of 3 bytes/);
  });

  test('finds checkpoints: their time is in seconds', () => {
    const main = Buffer.concat([
      integers([64, 0x1_2345n], [32, 1], [32, 1]),
      Buffer.alloc(48),
      integers([64, 1_800_000_000], [32, 0], [32, 0], [32, 0], [32, 0]),
    ]);
    const expected = { kind: 'checkpoint', redo: 0x1_2345n, timeUs: 1_800_000_000_000_000n };
    expect(main.length).toBe(88);
    expect(eventOf({ rmgr: 0, info: 0x00, main })).toEqual({ ...expected, shutdown: true });
    expect(eventOf({ rmgr: 0, info: 0x10, main })).toEqual({ ...expected, shutdown: false });
  });

  test('finds restore points, ends of recovery, wal_level, tablespaces and switches', () => {
    const name = Buffer.alloc(64);
    name.write('über alles');
    expect(eventOf({ rmgr: 0, info: 0x70, main: Buffer.concat([integers([64, PG_TIME]), name]) })).toEqual({
      kind: 'restorePoint',
      name: 'über alles',
      timeUs: TIME_US,
    });
    expect(
      eventOf({ rmgr: 0, info: 0x90, main: integers([64, PG_TIME], [32, 3], [32, 2], [32, 1]) }),
    ).toEqual({
      kind: 'endOfRecovery',
      timeline: 3,
      previousTimeline: 2,
      timeUs: TIME_US,
    });
    const settings = integers([32, 100], [32, 8], [32, 10], [32, 0], [32, 64], [32, 2], [8, 1], [8, 0]);
    expect(eventOf({ rmgr: 0, info: 0x60, main: settings })).toEqual({ kind: 'walLevel', walLevel: 2 });
    const space = Buffer.concat([integers([32, 16_500]), Buffer.from('/somewhere/else\0')]);
    expect(eventOf({ rmgr: 5, info: 0x00, main: space })).toEqual({
      kind: 'createTablespace',
      oid: 16_500,
      location: '/somewhere/else',
    });
    expect(eventOf({ rmgr: 5, info: 0x10, main: integers([32, 16_500]) })).toBeUndefined();
    const log = new WalBuilder();
    const placed = log.switchSegment();
    expect(placed.end).toBe(BEGIN + BigInt(SEGMENT_BYTES));
    expect(eventsOf(log)).toEqual([{ kind: 'switch', ...placed }]);
  });

  test('gives an event with the push in which its record ends', () => {
    const log = new WalBuilder();
    log.fillUntil(32);
    const placed = log.add(transactionEnd({ info: 0, xid: 8, timeUs: TIME_US, subxids: [1, 2, 3, 4, 5, 6] }));
    const bytes = log.bytes();
    const inspector = createLogInspector(optionsFrom());
    inspector.push(toLsn(BEGIN), bytes.subarray(0, bytes.length - 1));
    expect(inspector.takeEvents()).toEqual([]);
    expect(inspector.unfinishedRecordBegin).toBe(placed.begin);
    expect(inspector.endOfRecords).toBe(placed.begin);
    inspector.push(inspector.position, bytes.subarray(bytes.length - 1));
    expect(inspector.takeEvents()).toMatchObject([{ ...placed, kind: 'commit', xid: 8 }]);
    expect(inspector.unfinishedRecordBegin).toBeUndefined();
    expect(inspector.endOfRecords).toBe(placed.end);
  });

  test('refuses a push that does not go on where the one before ended', () => {
    const inspector = createLogInspector(optionsFrom());
    expect(() => inspector.push(toLsn(BEGIN + 8n), Buffer.alloc(8))).toThrow(/goes on at 0\/FFFF8000/);
  });
});

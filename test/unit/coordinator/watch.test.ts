/** What is told while a round runs: the pure judgements behind the events. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { describe, expect, test } from 'vitest';
import { awaySince, changesOf } from '../../../coordinator/archive/changes.ts';
import { judgeOverdue } from '../../../coordinator/archive/overdue.ts';
import { adviceFor } from '../../../coordinator/archive/retention.ts';
import { ArchiveProgressSchema, DestinationReach } from '../../../proto/gen/holdfast/v1/agent_pb.ts';

const NOW_US = 1_700_000_100_000_000n;
const AWAY_US = 1_700_000_000_000_000n;

describe('what an archiver reports', () => {
  const known = {
    tenant_id: 1001n,
    round: 1n,
    partition_group: 'p0',
    instance: 'a',
    slot_state: 'reserved',
    destination_away_us: 0n,
  };
  type Change = Omit<MessageInitShape<typeof ArchiveProgressSchema>, '$typeName' | '$unknown'>;
  const report = (change: Change) =>
    create(ArchiveProgressSchema, { state: 'DOING', slotState: 'reserved', ...change });
  const eventsOf = (before: typeof known, change: Change) =>
    changesOf(before, report(change), NOW_US).map(({ event, severity }) => [event, severity]);
  const away = { destination: DestinationReach.AWAY, destinationAwayUs: AWAY_US };

  test('an outage of the destination is told when it begins and when it is over, with how long', () => {
    const [begun] = changesOf(known, report({ ...away, lastError: 'EIO' }), NOW_US);
    expect(begun).toMatchObject({
      event: 'destination_away',
      message: expect.stringMatching(/out of reach since .*EIO/),
    });
    const [back] = changesOf(
      { ...known, destination_away_us: AWAY_US },
      report({ destination: DestinationReach.REACHED }),
      NOW_US,
    );
    expect(back).toMatchObject({
      event: 'destination_back',
      message: expect.stringContaining('for 100 s'),
      facts: { seconds: 100 },
    });
  });

  test('it is not told again while it lasts, nor ended by an archiver that does not know yet', () => {
    const during = { ...known, destination_away_us: AWAY_US };
    expect(eventsOf(during, { ...away, destinationAwayUs: AWAY_US + 5n })).toEqual([]);
    expect(eventsOf(during, {})).toEqual([]);
    expect(awaySince(report({}))).toBeUndefined();
    expect(eventsOf(known, { destination: DestinationReach.REACHED })).toEqual([]);
  });

  test.each([
    ['reserved', 'extended', 'WARNING'],
    ['extended', 'unreserved', 'WARNING'],
    ['unreserved', 'lost', 'ERROR'],
    ['reserved', 'wal_removed', 'ERROR'],
    ['reserved', 'missing', 'ERROR'],
    ['missing', 'reserved', 'INFO'],
    ['', 'lost', 'ERROR'],
  ])('a slot from %j to %s is told once, as %s', (before, after, severity) => {
    const from = { ...known, slot_state: before };
    expect(eventsOf(from, { slotState: after })).toEqual([['slot_state_changed', severity]]);
    expect(eventsOf({ ...known, slot_state: after }, { slotState: after })).toEqual([]);
  });

  test('a slot that is being made, or dropped at the end of its round, is as expected', () => {
    const fresh = { ...known, slot_state: '' };
    expect(eventsOf(fresh, { slotState: 'missing' })).toEqual([]);
    expect(eventsOf(fresh, { slotState: 'reserved' })).toEqual([]);
    expect(eventsOf(known, { slotState: '' })).toEqual([]);
    expect(eventsOf(known, { slotState: 'missing', state: 'STOPPING' })).toEqual([]);
  });
});

describe('what a member keeps', () => {
  const member = {
    instance: 'a',
    role: 'PRIMARY' as const,
    max_slot_wal_keep_size: '4GB',
    idle_slot_timeout: '0',
  };
  const optional = { mandatory: false, maxRetained: '16GB' };
  const mandatory = { mandatory: true, maxRetained: '16GB' };

  test('no advice where it fits, or is not known', () => {
    expect(adviceFor(member, optional)).toBe('');
    expect(adviceFor({ ...member, max_slot_wal_keep_size: '-1' }, mandatory)).toBe('');
    expect(adviceFor({ ...member, max_slot_wal_keep_size: '' }, mandatory)).toBe('');
  });
  test('else what is wrong, and the statement that mends it', () => {
    expect(adviceFor({ ...member, max_slot_wal_keep_size: '-1' }, optional)).toBe(
      'instance "a" (leader): max_slot_wal_keep_size is -1, wanted a limit of at most 16GB (log_archive_max_retained). ' +
        "On the server: ALTER SYSTEM SET max_slot_wal_keep_size = '16GB'; SELECT pg_reload_conf();",
    );
    expect(adviceFor(member, mandatory)).toMatch(/max_slot_wal_keep_size = -1;/);
    const timeout = { ...member, max_slot_wal_keep_size: '-1', idle_slot_timeout: '1d' };
    expect(adviceFor(timeout, mandatory)).toMatch(
      /idle_replication_slot_timeout is 1d.*idle_replication_slot_timeout = '0';/,
    );
  });
  test('a promoted member is told of again, as the leader', () => {
    const follower = { ...member, role: 'STANDBY' as const };
    expect(adviceFor(follower, mandatory)).toMatch(/\(follower\)/);
    expect(adviceFor(follower, mandatory)).not.toBe(adviceFor(member, mandatory));
  });
});

describe('an archiver whose agent is lost', () => {
  const second = 1_000_000n;
  const group = {
    server_id: 1n,
    instance: 'a',
    checkpoint_lsn: '0/10000000',
    start_us: NOW_US - 1000n * second,
    updated_us: NOW_US - 100n * second,
    backlog_bytes: 0n,
    earlier_input_bytes: 0n,
    input_bytes: 900n * 2n ** 20n, // 1 MiB each second
    slot_retained_bytes: 10n,
    wal_free_bytes: 0n,
  };
  const archived = { server_id: 1n, instance: 'a', lsn: '0/10000000', max_slot_wal_keep_size: '200MB' };
  const follower = { server_id: 2n, instance: 'b', lsn: '0/10000000', max_slot_wal_keep_size: '200MB' };

  test('nothing is overdue within what the server keeps', () => {
    expect(judgeOverdue(group, [archived, follower], NOW_US)).toBeUndefined();
  });
  test('what another member has of the log counts, as known', () => {
    const ahead = { ...follower, lsn: '0/20000000' };
    expect(judgeOverdue(group, [archived, ahead], NOW_US)).toEqual({
      limit: 'keeps',
      limitBytes: 200n * 2n ** 20n,
      backlogBytes: 256n * 2n ** 20n,
      isEstimate: false,
    });
  });
  test('without one, the rate so far', () => {
    const later = NOW_US + 101n * second;
    expect(judgeOverdue(group, [archived], later)).toMatchObject({ isEstimate: true, limit: 'keeps' });
    expect(judgeOverdue(group, [archived], later - 2n * second)).toBeUndefined();
  });
  test('a server that keeps all is judged by its disk, if that is known', () => {
    const all = { ...archived, max_slot_wal_keep_size: '-1' };
    expect(judgeOverdue(group, [all], NOW_US + 10_000n * second)).toBeUndefined();
    const disk = { ...group, wal_free_bytes: 50n * 2n ** 20n };
    expect(judgeOverdue(disk, [all], NOW_US)).toMatchObject({
      limit: 'disk',
      limitBytes: 50n * 2n ** 20n + 10n,
    });
  });
  test('a server whose settings nobody knows is not judged', () => {
    const silent = { ...archived, max_slot_wal_keep_size: '' };
    expect(judgeOverdue(group, [silent], NOW_US + 10_000n * second)).toBeUndefined();
  });
});

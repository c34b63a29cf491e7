import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { planMembers } from '../../../coordinator/archive/plan-members.ts';
import type { RoundMember } from '../../../coordinator/catalog/members.ts';
import type { RoundGroup } from '../../../coordinator/catalog/rounds.ts';

function row(name: string, more: Partial<RoundGroup> = {}): RoundGroup {
  return {
    tenant_id: 1001n,
    round: 1n,
    partition_group: name,
    task_id: 1n,
    epoch: 1n,
    state: 'DOING',
    server_id: 1n,
    instance: name,
    system_identifier: '7',
    segment_size_bytes: 16n,
    postgres_major: 17,
    start_timeline: 1n,
    start_lsn: '0/1',
    start_us: 1n,
    checkpoint_timeline: 1n,
    checkpoint_lsn: '0/1',
    checkpoint_us: 1n,
    earlier_input_bytes: 0n,
    earlier_output_bytes: 0n,
    input_bytes: 0n,
    output_bytes: 0n,
    last_error: '',
    hole_timeline: 0n,
    hole_begin: null,
    hole_end: null,
    hole_begin_us: 0n,
    hole_end_us: 0n,
    hole_reason: '',
    begun: true,
    left_us: 0n,
    lineage_timeline: 0n,
    waiting_for: '',
    backlog_bytes: 0n,
    slot_state: '',
    slot_retained_bytes: 0n,
    wal_free_bytes: 0n,
    updated_us: 0n,
    destination_away_us: 0n,
    overdue: false,
    ...more,
  };
}

function member(name: string, more: Partial<RoundMember> = {}): RoundMember {
  return { partition_group: name, membership: 1, joined_us: 0n, left_us: 0n, begun: true, ...more };
}

describe('what a running round does about its groups', () => {
  test('nothing while all that are declared are members and begun', () => {
    const settled = { declared: ['a', 'b'], rows: [row('a'), row('b')], members: [member('a'), member('b')] };
    expect(planMembers({ state: 'DOING', ...settled })).toEqual({ join: [], leave: [], begin: [] });
    expect(planMembers({ state: 'BEGINNING', ...settled, members: [] })).toEqual({
      join: [],
      leave: [],
      begin: [],
    });
  });

  test('while it is BEGINNING, the rows are the groups', () => {
    const plan = planMembers({
      state: 'BEGINNING',
      declared: ['a', 'c', 'd'],
      rows: [row('a'), row('b'), row('d', { left_us: 5n })],
      members: [],
    });
    expect(plan).toEqual({ join: ['c', 'd'], leave: ['b'], begin: [] });
  });

  test('a member begins when its archiver has reported a start, and only while it is declared', () => {
    const waiting = { begun: false } as const;
    const of = (found: RoundGroup, declared = ['a']) =>
      planMembers({
        state: 'DOING',
        declared,
        rows: [found],
        members: [member('a', waiting)],
      }).begin.map((each) => each.partition_group);
    expect(of(row('a', waiting))).toEqual(['a']);
    expect(of(row('a', { ...waiting, state: 'BEGINNING' }))).toEqual([]);
    expect(of(row('a', { ...waiting, start_lsn: null }))).toEqual([]);
    expect(of(row('a', { ...waiting, system_identifier: '0' }))).toEqual([]);
    expect(of(row('a', { ...waiting, left_us: 9n }))).toEqual([]);
    expect(of(row('a', waiting), [])).toEqual([]);
  });

  test('a record without its row, and a row without its record, are both still to be done', () => {
    expect(planMembers({ state: 'DOING', declared: ['a'], rows: [], members: [member('a')] }).join).toEqual([
      'a',
    ]);
    expect(planMembers({ state: 'DOING', declared: ['a'], rows: [row('a')], members: [] }).join).toEqual([
      'a',
    ]);
    expect(planMembers({ state: 'DOING', declared: [], rows: [], members: [member('a')] }).leave).toEqual([
      'a',
    ]);
    expect(planMembers({ state: 'DOING', declared: [], rows: [row('a')], members: [] }).leave).toEqual(['a']);
  });

  test('whatever stands in the catalog, doing what the plan says leaves the declared groups, and no other', () => {
    const names = fc.uniqueArray(fc.constantFrom('a', 'b', 'c'), { maxLength: 3 });
    fc.assert(
      fc.property(names, names, names, names, (declared, active, gone, open) => {
        const rows = [
          ...active.map((name) => row(name)),
          ...gone.filter((name) => !active.includes(name)).map((name) => row(name, { left_us: 1n })),
        ];
        const members = open.map((name) => member(name));
        const plan = planMembers({ state: 'DOING', declared, rows, members });
        const after = new Set([...open, ...active, ...plan.join]);
        for (const name of plan.leave) after.delete(name);
        expect([...after].sort()).toEqual([...declared].sort());
        expect(plan.join.filter((name) => plan.leave.includes(name))).toEqual([]);
      }),
    );
  });
});

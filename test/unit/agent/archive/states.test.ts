import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  type ArchiverEvent,
  type ArchiverState,
  classifyFailure,
  nextState,
  TRANSITIONS,
} from '../../../../agent/archive/states.ts';
import { ERRORS, type ErrorCode, HoldfastError } from '../../../../foundation/errors.ts';

const STATES = Object.keys(TRANSITIONS) as ArchiverState[]; // the table's own keys
const EVENTS: readonly ArchiverEvent[] = [
  'opened',
  'streaming',
  'timelineEnded',
  'failed',
  'waited',
  'drain',
  'drained',
  'interrupted',
];

describe('the archiver’s states', () => {
  test('every event the table does not have for a state is refused', () => {
    for (const state of STATES) {
      for (const event of EVENTS) {
        const next = TRANSITIONS[state][event];
        if (next === undefined) expect(() => nextState(state, event)).toThrow(/bug: archiver in state/);
        else expect(nextState(state, event)).toBe(next);
      }
    }
  });
  test('the only way into streaming leads through opening and connecting', () => {
    const into = (target: ArchiverState) =>
      STATES.filter((state) => Object.values(TRANSITIONS[state]).includes(target));
    expect(into('streaming')).toEqual(['connecting']);
    expect(into('connecting')).toEqual(['opening']);
    expect(into('opening')).toEqual(['streaming', 'waiting']);
  });
  test('a drain is possible in every state that is not draining or ended', () => {
    for (const state of STATES)
      expect(TRANSITIONS[state].drain === undefined).toBe(state === 'draining' || state === 'ended');
  });
  test('every state leads to the end', () => {
    for (const start of STATES) {
      const reached = new Set<ArchiverState>([start]);
      for (const state of reached) for (const next of Object.values(TRANSITIONS[state])) reached.add(next);
      expect(reached).toContain('ended');
    }
  });
  test('the table in the header says the same', () => {
    const source = readFileSync(join(import.meta.dirname, '../../../../agent/archive/states.ts'), 'utf8');
    const table = source.slice(source.indexOf(' * ```'), source.lastIndexOf(' * ```'));
    let state = '';
    const rows: string[] = [];
    for (const line of table.split('\n')) {
      state = /^ \* {2}([a-z]+) {2}/.exec(line)?.[1] ?? state;
      const pair = / ([a-zA-Z]+) +([a-z]+)$/.exec(line);
      if (pair !== null && state !== 'state' && pair[1] !== 'event')
        rows.push(`${state} ${pair[1]} ${pair[2]}`);
    }
    const expected = STATES.flatMap((from) =>
      Object.entries(TRANSITIONS[from]).map(([event, to]) => `${from} ${event} ${to}`),
    );
    expect(rows.toSorted()).toEqual(expected.toSorted());
  });
});

describe('classifyFailure', () => {
  test('what would leave a hole or wrong bytes interrupts; an outage is waited out; the rest is the coordinator’s', () => {
    const kinds = (Object.keys(ERRORS) as ErrorCode[]) // the table's own keys
      .map((code) => [code, classifyFailure(new HoldfastError(code, 'x'))] as const);
    const of = (kind: string) => kinds.filter((pair) => pair[1] === kind).map((pair) => pair[0]);
    expect(of('interrupted')).toEqual([
      'LOG_ARCHIVE_INTERRUPTED',
      'SYSTEM_IDENTIFIER_MISMATCH',
      'LOG_GAP',
      'LOG_CONFLICT',
      'WAL_UNREADABLE',
      'DATA_CORRUPT',
      'FORMAT_UNKNOWN',
    ]);
    expect(of('retry')).toEqual(
      expect.arrayContaining(['SERVER_UNREACHABLE', 'DESTINATION_IO', 'DESTINATION_FULL', 'TIMEOUT']),
    );
    expect(of('fatal')).toEqual(
      expect.arrayContaining(['LOG_ARCHIVE_LEADER_CHANGED', 'CANCELLED', 'SHUTTING_DOWN', 'INTERNAL']),
    );
  });
});

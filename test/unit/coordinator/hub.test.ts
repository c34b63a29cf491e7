import { expect, test } from 'vitest';
import { AgentSession, type AgentStream } from '../../../coordinator/agents/hub.ts';

test('a session keeps a task when the result of an earlier attempt comes late', () => {
  const stream: AgentStream = {
    peer: 'nobody',
    messages: (async function* () {
      // An agent that says nothing.
    })(),
    write: async () => await Promise.resolve(),
    end: () => undefined,
    cancel: () => undefined,
  };
  const session = new AgentSession(1n, stream, new AbortController().signal, 0);
  session.addTask(7n, 5);
  session.removeTask(7n, 3);
  expect(session.hasTask(7n, 5)).toBe(true);
  session.removeTask(7n, 5);
  expect(session.hasTask(7n, 5)).toBe(false);
});

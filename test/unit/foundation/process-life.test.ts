import { EventEmitter, once } from 'node:events';
import { expect, test } from 'vitest';
import { silentLogger } from '../../../foundation/log.ts';
import { type EndSignal, runUntilSignal } from '../../../foundation/process-life.ts';

class FakeHost {
  readonly #events = new EventEmitter();
  readonly exits: number[] = [];
  on(signal: EndSignal, listener: () => void) {
    this.#events.on(signal, listener);
  }
  off(signal: EndSignal, listener: () => void) {
    this.#events.off(signal, listener);
  }
  exit(code: number) {
    this.exits.push(code);
    this.#events.emit('exit');
  }
  send(signal: EndSignal) {
    this.#events.emit(signal);
  }
  get listening() {
    return this.#events.listenerCount('SIGTERM') + this.#events.listenerCount('SIGINT');
  }
  exited() {
    return once(this.#events, 'exit');
  }
}

const untilAborted = (signal: AbortSignal) =>
  new Promise<void>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));

test('a signal aborts, the process drains and ends with 0', async () => {
  const host = new FakeHost();
  const run = runUntilSignal(untilAborted, { drainMs: 1000, logger: silentLogger(), host });
  host.send('SIGTERM');
  expect(await run).toBe(0);
  expect(host.exits).toEqual([]);
  expect(host.listening).toBe(0);
});

test('a second signal ends the process at once with its number', async () => {
  const host = new FakeHost();
  const ended = Promise.withResolvers<void>();
  const run = runUntilSignal(() => ended.promise, { drainMs: 60_000, logger: silentLogger(), host });
  host.send('SIGTERM');
  host.send('SIGINT');
  expect(host.exits).toEqual([130]);
  ended.resolve();
  await run;
});

test('a process that does not drain in time is ended', async () => {
  const host = new FakeHost();
  const ended = Promise.withResolvers<void>();
  const run = runUntilSignal(() => ended.promise, { drainMs: 1, logger: silentLogger(), host });
  const exited = host.exited();
  host.send('SIGTERM');
  await exited;
  expect(host.exits).toEqual([5]);
  ended.resolve();
  await run;
});

test('an error of its own is passed on', async () => {
  const run = runUntilSignal(() => Promise.reject(new Error('broken')), {
    drainMs: 1,
    logger: silentLogger(),
    host: new FakeHost(),
  });
  await expect(run).rejects.toThrow('broken');
});

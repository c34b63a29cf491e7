/** What the engine says of real servers, and how it refuses what cannot work. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { InstanceConfig, LogChunk } from '../../engine/engine.ts';
import { connectInstance } from '../../engine/postgres/engine.ts';
import { defined } from '../../foundation/assert.ts';
import { formatLsn, segmentStart, toLsn, toTimeline } from '../../foundation/lsn.ts';
import { majors } from '../support/majors.ts';
import { createServer, freePort, type TestServer } from '../support/postgres.ts';

const signal = new AbortController().signal;

function configOf(port: number, user = 'postgres'): InstanceConfig {
  return {
    name: 'a',
    host: '127.0.0.1',
    port,
    user,
    database: 'postgres',
    password: undefined,
    dataDirectory: undefined,
  };
}

describe.each(majors(14, 15, 16, 17, 18))('PostgreSQL %i', (major) => {
  let server: TestServer;
  beforeAll(async () => {
    server = await createServer({ major });
  });
  afterAll(() => server[Symbol.asyncDispose]());

  test('is identified, passes the checks, and gives its insert position with its clock', async () => {
    await using instance = await connectInstance(configOf(server.port), signal);
    const identity = await instance.identify(signal);
    expect(identity).toMatchObject({
      major,
      role: 'primary',
      timeline: 1,
      segmentSizeBytes: 16 * 1024 * 1024,
      blockSizeBytes: 8192,
      pageChecksumVersion: 1,
      dataDirectory: server.dataDirectory,
    });
    for (const purpose of ['archive', 'backup'] as const)
      expect((await instance.precheck(purpose, signal)).filter((item) => !item.passed)).toEqual([]);
    const first = await instance.insertPosition(signal);
    await server.query('SELECT pg_create_restore_point($1)', ['x']);
    const second = await instance.insertPosition(signal);
    expect(second.lsn).toBeGreaterThan(first.lsn);
    expect(second.clockUs).toBeGreaterThan(first.clockUs);
    expect(Math.abs(Number(second.clockUs / 1000n) - Date.now())).toBeLessThan(5000);
  });

  test('reserves log by a slot, streams it, and moves the slot only by what is acknowledged', async () => {
    await using instance = await connectInstance(configOf(server.port), signal);
    expect(await instance.slotState('holdfast_s', signal)).toMatchObject({ exists: false });
    const reserved = await instance.ensureSlot('holdfast_s', signal);
    expect(await instance.ensureSlot('holdfast_s', signal)).toBe(reserved);
    const begin = segmentStart(reserved, 16 * 1024 * 1024);
    await using stream = await instance.openLogStream(
      'holdfast_s',
      { timeline: toTimeline(1), lsn: begin },
      signal,
    );
    await server.query('CREATE TABLE t AS SELECT generate_series(1, 5000)');
    const { lsn: target } = await instance.insertPosition(signal);
    let last: LogChunk | undefined;
    for await (const chunk of stream) {
      last = chunk;
      if (chunk.begin + BigInt(chunk.data.length) < target) continue;
      stream.acknowledge(toLsn(chunk.begin + BigInt(chunk.data.length)));
      break;
    }
    expect(last?.serverEnd).toBeGreaterThanOrEqual(target);
    await stream[Symbol.asyncDispose]();
    expect((await instance.slotState('holdfast_s', signal)).walStatus).toBe('reserved');
    await expect
      .poll(async () => {
        await instance.dropSlot('holdfast_s', signal).catch(() => undefined);
        return (await instance.slotState('holdfast_s', signal)).exists;
      })
      .toBe(false);
    await instance.dropSlot('holdfast_s', signal);
  });
});

describe('what cannot work is refused by name', () => {
  let server: TestServer;
  beforeAll(async () => {
    server = await createServer({
      settings: { wal_level: 'minimal', max_wal_senders: '0', full_page_writes: 'off' },
    });
  });
  afterAll(() => server[Symbol.asyncDispose]());

  test('wal_level, max_wal_senders, full_page_writes, rights: each with its statement', async () => {
    await using instance = await connectInstance(configOf(server.port), signal);
    const failed = (await instance.precheck('archive', signal)).filter((item) => !item.passed);
    expect(failed.map((item) => item.name)).toEqual([
      'wal_level',
      'full_page_writes',
      'max_wal_senders',
      'replication_connection',
    ]);
    await server.query('CREATE ROLE weak LOGIN');
    await using weak = await connectInstance(configOf(server.port, 'weak'), signal);
    const names = async (purpose: 'archive' | 'backup') =>
      (await weak.precheck(purpose, signal)).filter((item) => !item.passed).map((item) => item.name);
    expect(await names('archive')).toEqual(
      expect.arrayContaining(['pg_read_all_settings', 'replication_right']),
    );
    expect(await names('backup')).toEqual(expect.arrayContaining(['backup_functions', 'data_directory']));
  });

  test('nobody listening, an unknown role, an unknown database', async () => {
    await expect(connectInstance(configOf(await freePort()), signal)).rejects.toMatchObject({
      code: 'SERVER_UNREACHABLE',
      hint: expect.stringMatching(/listen_addresses/),
    });
    await expect(connectInstance(configOf(server.port, 'nobody'), signal)).rejects.toMatchObject({
      code: 'PRIVILEGE',
    });
    await expect(
      connectInstance({ ...configOf(server.port), database: 'none' }, signal),
    ).rejects.toMatchObject({ code: 'INVALID_CONFIG' });
  });

  test('a call whose signal fires ends at once', async () => {
    await using instance = await connectInstance(configOf(server.port), signal);
    const controller = new AbortController();
    controller.abort(new Error('enough'));
    await expect(instance.identify(controller.signal)).rejects.toThrow('enough');
    expect((await instance.identify(signal)).major).toBe(17);
  });
});

test('a position that the server never reached is LOG_CONFLICT', async () => {
  await using server = await createServer();
  await using instance = await connectInstance(configOf(server.port), signal);
  await instance.ensureSlot('holdfast_s', signal);
  const first = (await instance.identify(signal)).lsn;
  const consume = async (lsn: bigint) => {
    await using stream = await instance.openLogStream(
      'holdfast_s',
      { timeline: toTimeline(1), lsn: toLsn(lsn) },
      signal,
    );
    for await (const chunk of stream) defined(chunk, formatLsn(chunk.begin));
  };
  await expect(consume(first + 0x1000_0000n)).rejects.toMatchObject({ code: 'LOG_CONFLICT' });
});

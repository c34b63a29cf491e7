import { expect, test } from 'vitest';
import { runAdmin } from '../../../../coordinator/sql/execute.ts';
import { parseSql } from '../../../../coordinator/sql/parse.ts';
import { createSession, type SqlSession } from '../../../../coordinator/sql/session.ts';

const { signal } = new AbortController();

/** The statements of passwords concern the session alone. */
const services = {
  executeCommand: () => {
    throw new Error('a command was run');
  },
};

async function run(session: SqlSession, sql: string): Promise<void> {
  for (const parsed of parseSql(sql)) {
    if (parsed.kind !== 'admin') throw new Error(`not an admin statement: ${sql}`);
    for await (const event of runAdmin(services, session, parsed.statement, signal))
      expect(event.kind).toBe('complete');
  }
}

test('a session keeps the passwords that it sets', async () => {
  const session = createSession('root');
  await run(session, "SET ENCRYPTION ON IDENTIFIED BY ' a b ' ONLY; SET DECRYPTION IDENTIFIED BY 'c', 'ü'");
  expect(session.encryption).toEqual({ password: ' a b ', only: true });
  expect(session.decryptionPasswords).toEqual(['c', 'ü']);
  await run(session, 'SET ENCRYPTION OFF');
  expect(session.encryption).toBeUndefined();
});

test.each([
  ['is empty', "SET ENCRYPTION ON IDENTIFIED BY '' ONLY"],
  ['is empty', "SET DECRYPTION IDENTIFIED BY 'other', ''"],
  ['has a line break', "SET ENCRYPTION ON IDENTIFIED BY 'secret\nline'"],
  ['has a line break', "SET DECRYPTION IDENTIFIED BY 'secret\r'"],
])('a password that %s is refused, and not shown: %j', async (fault, sql) => {
  const session = createSession('root');
  await run(session, "SET ENCRYPTION ON IDENTIFIED BY 'before'; SET DECRYPTION IDENTIFIED BY 'before'");
  const refused: unknown = await run(session, sql).catch((error: unknown) => error);
  expect(refused).toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringContaining(fault),
    hint: expect.stringContaining('--password-file'),
  });
  expect(JSON.stringify([refused, String(refused)])).not.toContain('secret');
  expect(session).toMatchObject({
    encryption: { password: 'before', only: false },
    decryptionPasswords: ['before'],
  });
});

test('nor is one with the character of code zero', async () => {
  const session = createSession('root');
  const statement = { kind: 'setDecryption', passwords: ['secret\0'] } as const;
  await expect(runAdmin(services, session, statement, signal).next()).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
});

import { expect, test } from 'vitest';
import { HoldfastError } from '../../../foundation/errors.ts';
import { createLogger, maskCredentials } from '../../../foundation/log.ts';

function record(write: (logger: ReturnType<typeof createLogger>) => void): string {
  let text = '';
  write(createLogger({ name: 'test', stream: { write: (line: string) => void (text += line) } }));
  return text;
}

test('fields with the name of a secret are replaced', () => {
  const text = record((logger) =>
    logger.info({ password: 'hunter2', s3: { accessKey: 'hunter2' } }, 'hello'),
  );
  expect(text).not.toContain('hunter2');
  expect(JSON.parse(text)).toMatchObject({ name: 'test', msg: 'hello', password: '***' });
});

test('credentials inside a URI are masked wherever they stand', () => {
  const uri = 's3://bucket/x?host=h&access_id=AKIA&access_key=hunter2&region=r';
  expect(maskCredentials(uri)).toBe('s3://bucket/x?host=h&access_id=***&access_key=***&region=r');
  expect(maskCredentials('postgresql://me:hunter2@db:5432/x')).toBe('postgresql://me:***@db:5432/x');
  expect(record((logger) => logger.warn({ err: new Error(`cannot open ${uri}`) }, uri))).not.toContain(
    'hunter2',
  );
});

test('an error is logged with code, detail, hint and causes', () => {
  const error = new HoldfastError('LOG_GAP', 'log is missing', {
    detail: '0/1 to 0/2',
    hint: 'BACKUP DATABASE',
    cause: new Error('gone'),
  });
  const text = record((logger) => logger.error({ err: error }, 'failed'));
  expect(JSON.parse(text)).toMatchObject({
    err: {
      message: 'LOG_GAP: log is missing',
      detail: '0/1 to 0/2',
      hint: 'BACKUP DATABASE',
      causes: ['Error: gone'],
    },
  });
});

import { expect, test } from 'vitest';
import { ERRORS } from '../../../foundation/errors.ts';
import { readDocument, tablesOf } from '../../support/documents.ts';

test('docs/errors.md has every error with its facts, and no other', async () => {
  const rows = tablesOf(await readDocument('docs/errors.md')).flat();
  const documented = rows.map((cells) => cells.slice(0, 5));
  const wanted = Object.entries(ERRORS).map(([code, { number, sqlState, exitCode, retryable }]) => [
    `\`${code}\``,
    number === null ? 'none' : String(number),
    sqlState,
    String(exitCode),
    retryable ? 'yes' : 'no',
  ]);
  expect(documented).toEqual(wanted);
});

test('docs/errors.md says of every error what it means and what to do', async () => {
  const rows = tablesOf(await readDocument('docs/errors.md')).flat();
  expect(rows.filter(([, , , , , meaning = '', advice = '']) => meaning === '' || advice === '')).toEqual([]);
});

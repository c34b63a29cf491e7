import { describe, expect, test } from 'vitest';
import { KEYWORDS } from '../../../coordinator/sql/grammar/keywords.ts';
import { parseSql } from '../../../coordinator/sql/parse.ts';
import {
  type CurrentStatement,
  type LaterStatement,
  STATEMENT_NAMES,
} from '../../../coordinator/sql/statements.ts';
import { codeIn, readDocument, sectionsOf, tablesOf } from '../../support/documents.ts';
import { formsOf } from '../../support/statement-syntax.ts';

const CURRENT = {
  setParameter: true,
  showParameters: true,
  archiveLog: true,
  noArchiveLog: true,
  backup: true,
  cancelBackup: true,
  restore: true,
  cancelRestore: true,
  showRestoreWindows: true,
  showRestorePreview: true,
  check: true,
  createResourceUnit: true,
  createResourcePool: true,
  dropResourceUnit: true,
  dropResourcePool: true,
  dropTenant: true,
  validate: true,
  cancelValidate: true,
  rotateBackupKey: true,
  setEncryption: true,
  setDecryption: true,
} as const satisfies Record<CurrentStatement['kind'], true>;

const LATER = {
  addBackupSchedule: true,
  changeBackupSchedule: true,
  addDeletePolicy: true,
  dropDeletePolicy: true,
  deleteBackup: true,
  deleteObsoleteBackup: true,
  cancelDeleteBackup: true,
  changeBackupSetKeep: true,
  backupBackup: true,
  cancelBackupBackup: true,
  backupArchivelogCopy: true,
  createRestorePoint: true,
  addRestoreSource: true,
  clearRestoreSource: true,
  importBackup: true,
  knownByName: true,
} as const satisfies Record<LaterStatement['kind'], true>;

/** The syntaxes in the first column of the two tables of README.md: of this version's statements, and of later ones. */
async function readSyntaxes() {
  const section = sectionsOf(await readDocument('README.md')).get('Statements') ?? '';
  const [current = [], later = []] = tablesOf(section);
  const syntaxesOf = (table: typeof current) => table.flatMap(([first = '']) => codeIn(first));
  return { current: syntaxesOf(current), later: syntaxesOf(later) };
}

/** What the forms of a syntax are; a statement that the grammar does not have throws SYNTAX_ERROR. */
function kindsOf(syntax: string): readonly string[] {
  return formsOf(syntax).flatMap((form) =>
    parseSql(form).map((parsed) =>
      parsed.kind === 'admin' ? parsed.statement.kind : `${parsed.kind}: ${form}`,
    ),
  );
}

describe('the statements in README.md', () => {
  test('are those that the grammar has, and every form of them can be parsed', async () => {
    const { current, later } = await readSyntaxes();
    const reading = 'SELECT … FROM CDB_OB_…';
    expect(current).toContain(reading);
    const kinds = new Set(current.filter((syntax) => syntax !== reading).flatMap(kindsOf));
    expect([...kinds].toSorted()).toEqual(Object.keys(CURRENT).toSorted());
    // Parts of this version's statements may be a later version's.
    const laterKinds = [...new Set(later.flatMap(kindsOf))].filter((kind) => !kinds.has(kind));
    expect(laterKinds.toSorted()).toEqual(Object.keys(LATER).toSorted());
    expect([...Object.keys(CURRENT), ...Object.keys(LATER)].toSorted()).toEqual(
      Object.keys(STATEMENT_NAMES).toSorted(),
    );
  });

  test('have every word of the grammar', async () => {
    const { current, later } = await readSyntaxes();
    const words = new Set(
      [...current, ...later]
        .join(' ')
        .replaceAll(/'[^']*'/g, '')
        .match(/[A-Z_]+/g),
    );
    expect(KEYWORDS.filter((word) => !words.has(word))).toEqual([]);
  });
});

test('a syntax of the documents becomes its shortest and its longest statements', () => {
  expect(formsOf("A [B | C n] {D 'x | y' | E}, … F t, …")).toEqual([
    "A D 'x | y' F t",
    "A B D 'x | y', E F t, t",
    'A E F t',
    "A C 1 E, D 'x | y' F t, t",
  ]);
});

import { afterAll, describe, expect, test } from 'vitest';
import { openPgliteCatalog } from '../../../coordinator/catalog/pglite.ts';
import { codeIn, listDocuments, readDocument, sectionsOf, tablesOf } from '../../support/documents.ts';

const PATH = 'docs/views.md';

/** The types of a column that has the unit. */
const TYPES: Readonly<Record<string, readonly string[]>> = {
  id: ['bigint', 'integer'],
  count: ['bigint', 'integer'],
  port: ['integer'],
  number: ['numeric'],
  timeline: ['bigint'],
  LSN: ['text'],
  bytes: ['bigint', 'numeric'],
  'bytes/s': ['numeric'],
  seconds: ['numeric'],
  percent: ['numeric'],
  ratio: ['numeric'],
  cores: ['double precision'],
  time: ['timestamp with time zone'],
  'yes/no': ['boolean'],
  name: ['text'],
  text: ['text'],
  list: ['text'],
  JSON: ['jsonb'],
  'JSON text': ['text'],
};

describe('docs/views.md', () => {
  const opened = openPgliteCatalog(undefined, 'test', 1n);
  afterAll(async () => {
    await (await opened).catalog[Symbol.asyncDispose]();
  });
  const listViews = async () => (await opened).catalog.views;

  test('has every view of the catalog, and no other', async () => {
    const names = (await listViews()).map(({ name }) => name.toUpperCase());
    const text = await readDocument(PATH);
    expect([...sectionsOf(text).keys()].toSorted()).toEqual(names.toSorted());
    const [index = []] = tablesOf(text);
    expect(index.flatMap(([first = '']) => codeIn(first))).toEqual([...sectionsOf(text).keys()]);
  });

  test('has every column of a view in the order of the catalog, and no other', async () => {
    const sections = sectionsOf(await readDocument(PATH));
    for (const { name, columns } of await listViews()) {
      const [rows = []] = tablesOf(sections.get(name.toUpperCase()) ?? '');
      const documented = rows.flatMap(([first = '']) => codeIn(first));
      expect(documented, name).toEqual(columns.map((column) => column.name));
    }
  });

  test('gives each column a unit that its type can have, and a meaning', async () => {
    const sections = sectionsOf(await readDocument(PATH));
    for (const { name, columns } of await listViews()) {
      const [rows = []] = tablesOf(sections.get(name.toUpperCase()) ?? '');
      for (const [index, { name: column, type }] of columns.entries()) {
        const [, unit = '', meaning = ''] = rows[index] ?? [];
        expect(TYPES[unit], `${name}.${column}: ${unit}`).toContain(type);
        expect(meaning, `${name}.${column}`).not.toBe('');
      }
    }
  });

  test('explains every unit', async () => {
    const [, units = []] = tablesOf(await readDocument(PATH));
    expect(units.flatMap(([first = '']) => codeIn(first)).toSorted()).toEqual(Object.keys(TYPES).toSorted());
  });

  test('is what the other documents name views from', async () => {
    const names = new Set((await listViews()).map(({ name }) => name.toUpperCase()));
    for (const path of (await listDocuments()).filter((each) => each !== PATH)) {
      const named = (await readDocument(path)).match(/\b(?:CDB|DBA)_OB_[A-Z_]*[A-Z]\b/g) ?? [];
      expect(
        named.filter((name) => !names.has(name)),
        path,
      ).toEqual([]);
    }
  });
});

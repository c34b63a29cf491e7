import { access } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { listDocuments, readDocument } from '../../support/documents.ts';

const ROOT = join(import.meta.dirname, '..', '..', '..');

/** Of every heading, as GitHub makes them. */
function anchorsOf(text: string): ReadonlySet<string> {
  const headings = [...text.matchAll(/^#+ (.*)$/gm)].map((match) => match[1] ?? '');
  return new Set(
    headings.map((heading) =>
      heading
        .toLowerCase()
        .replaceAll(/[^\w -]/g, '')
        .replaceAll(' ', '-'),
    ),
  );
}

test('every link between the documents leads to a file, and to a heading in it', async () => {
  const broken: string[] = [];
  for (const path of await listDocuments()) {
    const text = await readDocument(path);
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [file = '', anchor] = target.split('#');
      const to = file === '' ? path : join(dirname(path), file);
      const isThere = await access(join(ROOT, to)).then(
        () => true,
        () => false,
      );
      const leads = isThere && (anchor === undefined || anchorsOf(await readDocument(to)).has(anchor));
      if (!leads) broken.push(`${path}: ${target}`);
    }
  }
  expect(broken).toEqual([]);
});

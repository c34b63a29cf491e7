/** The line of a statement that an error points at, with a caret below, as psql shows it. */

/** `position`: 1-based, in characters of `sql`. */
export function formatCaret(sql: string, position: number): string {
  const characters = Array.from(sql);
  const before = characters.slice(0, position - 1).join('');
  const lineNo = before.split('\n').length;
  const column = Array.from(before.slice(before.lastIndexOf('\n') + 1).replaceAll('\t', ' ')).length;
  const line = sql.split('\n')[lineNo - 1] ?? '';
  const label = `LINE ${lineNo}: `;
  return `${label}${line.replaceAll('\t', ' ')}\n${' '.repeat(label.length + column)}^`;
}

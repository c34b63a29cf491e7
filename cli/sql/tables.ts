/** Results as text: aligned as psql does it, JSON, CSV. */
import type { Column, Value } from '../../proto/gen/holdfast/v1/admin_pb.ts';
import { formatCell, formatJson, isNumeric } from './values.ts';

export type Table = { readonly columns: readonly Column[]; readonly rows: readonly (readonly Value[])[] };
export type Format = 'aligned' | 'json' | 'csv';
export const FORMATS: readonly Format[] = ['aligned', 'json', 'csv'];

/** Ends with a line end. */
export function formatTable(table: Table, format: Format): string {
  if (format === 'json') return formatAsJson(table);
  if (format === 'csv') return formatAsCsv(table);
  return formatAligned(table);
}

function formatAligned({ columns, rows }: Table): string {
  const cells = rows.map((row) => row.map((value) => formatCell(value) ?? ''));
  const names = columns.map(({ name }) => name);
  const widths = names.map((name, i) =>
    Math.max(...[name, ...cells.map((row) => row[i] ?? '')].map(widthOf)),
  );
  const header = names.map((name, i) => center(name, widths[i] ?? 0));
  const lines = [` ${header.join(' | ')} `.trimEnd(), widths.map((width) => '-'.repeat(width + 2)).join('+')];
  for (const row of cells) lines.push(formatRow(row, columns, widths));
  return `${lines.join('\n')}\n(${rows.length} ${rows.length === 1 ? 'row' : 'rows'})\n\n`;
}

/** A cell of several lines takes several lines, marked with `+`, as psql does it. */
function formatRow(row: readonly string[], columns: readonly Column[], widths: readonly number[]): string {
  const parts = row.map((cell) => cell.split('\n'));
  const height = Math.max(1, ...parts.map((lines) => lines.length));
  return Array.from({ length: height }, (_, line) => {
    const cells = parts.map((lines, i) => {
      const padded = pad(lines[line] ?? '', widths[i] ?? 0, isNumeric(columns[i]?.typeOid ?? 0));
      return ` ${padded}${line < lines.length - 1 ? '+' : ' '}`;
    });
    return cells.join('|').trimEnd();
  }).join('\n');
}

function pad(text: string, width: number, right: boolean): string {
  const space = ' '.repeat(Math.max(0, width - widthOf(text)));
  return right ? space + text : text + space;
}

function center(text: string, width: number): string {
  const space = Math.max(0, width - widthOf(text));
  return ' '.repeat(Math.floor(space / 2)) + text + ' '.repeat(Math.ceil(space / 2));
}

/** In characters; of several lines the longest. */
function widthOf(text: string): number {
  return Math.max(...text.split('\n').map((line) => Array.from(line).length));
}

function formatAsJson({ columns, rows }: Table): string {
  const objects = rows.map((row) => {
    const fields = row.map((value, i) => `${JSON.stringify(columns[i]?.name ?? '')}:${formatJson(value)}`);
    return `  {${fields.join(',')}}`;
  });
  return objects.length === 0 ? '[]\n' : `[\n${objects.join(',\n')}\n]\n`;
}

function formatAsCsv({ columns, rows }: Table): string {
  const header = columns.map(({ name }) => quoteCsv(name)).join(',');
  const lines = rows.map((row) =>
    row
      .map((value) => {
        const cell = formatCell(value);
        return cell === null ? '' : quoteCsv(cell);
      })
      .join(','),
  );
  return `${[header, ...lines].join('\n')}\n`;
}

/** An empty string is quoted: without quotes it is NULL. */
function quoteCsv(cell: string): string {
  return cell === '' || /[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

/** The small languages inside RESTORE's strings. Each returns what is wrong as a sentence. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { ScnPosition } from '../statements.ts';

/** `k=v&k=v`: keys in lower case, values percent-decoded, no key twice. */
export function parseRestoreOptions(text: string): Readonly<Record<string, string>> | string {
  const options = new Map<string, string>();
  for (const pair of text.split('&')) {
    if (pair.trim() === '') continue;
    const [, key, value] = /^\s*(\w+)\s*=(.*)$/s.exec(pair) ?? [];
    if (key === undefined || value === undefined)
      return `restore option "${pair}" is not of the form key=value`;
    const name = key.toLowerCase();
    if (options.has(name)) return `restore option "${name}" is given twice`;
    const decoded = decodePercent(value.trim());
    if (decoded === undefined) return `restore option "${name}" has a "%" that begins no character code`;
    options.set(name, decoded);
  }
  return Object.fromEntries(options);
}

/** `0/3000148`, or `group:0/3000148,…`. */
export function parseScnPositions(
  text: string,
  parseLsn: (text: string) => Lsn,
): readonly ScnPosition[] | string {
  const positions: ScnPosition[] = [];
  for (const part of text.split(',')) {
    const colon = part.lastIndexOf(':');
    const group = colon < 0 ? undefined : part.slice(0, colon).trim();
    const lsnText = part.slice(colon + 1).trim();
    if (!/^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/.test(lsnText)) return `not a log position: "${part.trim()}"`;
    if (group === '') return `no partition group before ":" in "${part.trim()}"`;
    if (positions.some((position) => position.group === group))
      return group === undefined ? 'more than one log position' : `partition group "${group}" is given twice`;
    positions.push({ group, lsn: parseLsn(lsnText) });
  }
  if (positions.length > 1 && positions.some((position) => position.group === undefined))
    return 'of several log positions each needs its partition group';
  return positions;
}

function decodePercent(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return undefined;
    throw error;
  }
}

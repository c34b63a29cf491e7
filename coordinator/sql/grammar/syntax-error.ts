/** Syntax errors: the character they point at, what was expected there, and the word that was perhaps meant. */
import { HoldfastError } from '../../../foundation/errors.ts';

/** 1-based position in characters (code points), as PostgreSQL counts them, of a UTF-16 offset. */
export function positionOf(text: string, offset: number): number {
  let position = 1;
  for (let at = 0; at < offset && at < text.length; position += 1)
    at += (text.codePointAt(at) ?? 0) > 0xffff ? 2 : 1;
  return position;
}

export type SyntaxFault = {
  readonly text: string;
  /** UTF-16 offset; `text.length` is the end. */
  readonly offset: number;
  /** What stands there; undefined: nothing, the end. */
  readonly found: string | undefined;
  /** As a person reads them: keywords in capitals, or `a name`, `a string`. */
  readonly expected: readonly string[];
};

const MAX_SHOWN = 12;
const MAX_NEAR_CHARACTERS = 40;

export function syntaxError({ text, offset, found, expected }: SyntaxFault): HoldfastError {
  const place = found === undefined ? 'at end of input' : `at or near "${shorten(found)}"`;
  const hint = found === undefined ? undefined : suggestWord(found, expected);
  return new HoldfastError('SYNTAX_ERROR', `syntax error ${place}${formatExpected(expected)}`, {
    position: positionOf(text, offset),
    ...(hint === undefined ? {} : { hint: `Did you mean ${hint}?` }),
  });
}

/** A syntax error whose reason is not a missing word: a number out of range, an open quote. */
export function valueError(text: string, offset: number, message: string, hint?: string): HoldfastError {
  return new HoldfastError('SYNTAX_ERROR', message, {
    position: positionOf(text, offset),
    ...(hint === undefined ? {} : { hint }),
  });
}

function shorten(found: string): string {
  const line = found.split('\n', 1)[0] ?? '';
  return line.length > MAX_NEAR_CHARACTERS ? `${line.slice(0, MAX_NEAR_CHARACTERS)}…` : line;
}

function formatExpected(expected: readonly string[]): string {
  const words = [...new Set(expected)].sort();
  if (words.length === 0) return '';
  const shown = words.slice(0, MAX_SHOWN).join(', ');
  return `: expected ${words.length > 1 ? 'one of ' : ''}${shown}${words.length > MAX_SHOWN ? ', …' : ''}`;
}

/** The word of `candidates` that `word` is a misspelling of, if one is near enough. */
export function suggestWord(word: string, candidates: readonly string[]): string | undefined {
  const upper = word.toUpperCase();
  if (!/^\w{2,40}$/.test(upper)) return undefined;
  const limit = upper.length <= 4 ? 1 : 2;
  let best: { readonly candidate: string; readonly distance: number } | undefined;
  for (const candidate of candidates) {
    if (!/^[A-Z]\w+$/.test(candidate) || candidate === upper) continue;
    const distance = editDistance(upper, candidate);
    if (distance <= limit && (best === undefined || distance < best.distance)) best = { candidate, distance };
  }
  return best?.candidate;
}

/** Optimal string alignment: insert, delete, replace, swap neighbours. Both words are short. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        best = Math.min(best, (beforeLast[j - 2] ?? 0) + 1);
      row.push(best);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

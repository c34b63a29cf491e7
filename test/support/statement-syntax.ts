/**
 * The notation in which README.md writes statements, made into statements that can be parsed: `[ ]` may be left out,
 * `{ | }` is a choice, `, …` more of the same, `<name>` and `n` stand for a name and a number.
 */

type Part =
  | { readonly kind: 'text'; readonly text: string }
  /** What stands before it, again. */
  | { readonly kind: 'more' }
  | { readonly kind: 'group'; readonly optional: boolean; readonly alternatives: readonly Syntax[] };
type Syntax = readonly Part[];

/** The shortest form and the longest, each with every alternative of every choice. */
export function formsOf(text: string): readonly string[] {
  const [syntax] = new SyntaxReader(text).alternatives('');
  if (syntax === undefined) return [];
  const forms = Array.from({ length: mostAlternatives(syntax) }, (_, pick) =>
    [false, true].map((full) => asStatement(expand(syntax, full, pick))),
  );
  return [...new Set(forms.flat())];
}

class SyntaxReader {
  readonly #tokens: readonly string[];
  #at = 0;

  constructor(text: string) {
    this.#tokens = text.match(/'[^']*'|[[\]{}|]|, …|(?:(?!, …)[^'[\]{}|])+/g) ?? [];
  }

  /** Up to the closing token, which is taken too; '' is the end. */
  alternatives(end: string): readonly Syntax[] {
    const alternatives: Part[][] = [[]];
    for (; ; this.#at += 1) {
      const token = this.#tokens[this.#at] ?? '';
      if (token === end) return alternatives;
      if (token === '' || token === ']' || token === '}')
        throw new Error(`not a syntax: ${this.#tokens.join('')}`);
      if (token === '|') alternatives.push([]);
      else alternatives.at(-1)?.push(this.#part(token));
    }
  }

  #part(token: string): Part {
    if (token === ', …') return { kind: 'more' };
    if (token !== '[' && token !== '{') return { kind: 'text', text: token };
    this.#at += 1;
    const optional = token === '[';
    return { kind: 'group', optional, alternatives: this.alternatives(optional ? ']' : '}') };
  }
}

function mostAlternatives(syntax: Syntax): number {
  const counts = syntax.map((part) =>
    part.kind === 'group'
      ? Math.max(part.alternatives.length, ...part.alternatives.map(mostAlternatives))
      : 1,
  );
  return Math.max(1, ...counts);
}

function expand(syntax: Syntax, full: boolean, pick: number): string {
  const texts = syntax.map((part, index) => {
    if (part.kind === 'text') return part.text;
    if (part.kind === 'more') return full ? `, ${again(syntax[index - 1], pick)}` : '';
    return part.optional && !full ? '' : choose(part.alternatives, full, pick);
  });
  return texts.join('');
}

function choose(alternatives: readonly Syntax[], full: boolean, pick: number): string {
  return expand(alternatives[pick % alternatives.length] ?? [], full, pick).trim();
}

/** The next alternative of a choice, or the last word. */
function again(before: Part | undefined, pick: number): string {
  if (before?.kind === 'group') return choose(before.alternatives, true, pick + 1);
  return before?.kind === 'text' ? (/(?:'[^']*'|[\w.]+)$/.exec(before.text)?.[0] ?? '') : '';
}

function asStatement(text: string): string {
  const parts = text.split(/('[^']*')/);
  return parts
    .map((part) => {
      if (part === "'X/X'") return "'0/3000148'";
      if (part.startsWith("'")) return part;
      return part
        .replaceAll('…', '')
        .replaceAll(/<(\w+)>/g, '$1')
        .replaceAll(/\bn\b/g, '1');
    })
    .join('')
    .replaceAll(/ +/g, ' ')
    .trim();
}

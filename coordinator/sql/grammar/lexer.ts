/**
 * The tokens of SQL, PostgreSQL's lexical rules in full (lexical structure, chapter 4.1): admin statements are parsed
 * from them and reading statements are split and classified by them. Every input gives tokens: what is no token is
 * `Other`, and an open quote or comment is `Unterminated` up to the end. Linear in the length of the text.
 *
 * `standard_conforming_strings` is taken to be on: a backslash is ordinary except in `E'…'`.
 */
import { type CustomPatternMatcherFunc, createToken, type IToken, Lexer, type TokenType } from 'chevrotain';
import { KEYWORDS, type Keyword, RESERVED } from './keywords.ts';

/** Any name that is not quoted; keywords that may be names are of this category too. */
export const Name = createToken({ name: 'Name', label: 'a name', pattern: Lexer.NA });
export const Word = createToken({
  name: 'Word',
  label: 'a name',
  pattern: /[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*/,
  categories: [Name],
});
export const QuotedName = token('QuotedName', 'a quoted name', quoted('"'), {
  categories: [Name],
  start: '"',
});
export const StringLiteral = token('StringLiteral', 'a string', quoted("'"), { start: "'" });
const EscapeString = token('EscapeString', 'a string', matchEscapeString, { start: 'eE' });
const DollarString = token('DollarString', 'a string', matchDollarString, { start: '$' });
/** A number with letters behind it: `1G`, `30d`. */
export const Quantity = createToken({
  name: 'Quantity',
  label: 'a quantity',
  pattern: /\d+(?:\.\d+)?[A-Za-z_]\w*/,
});
export const NumberLiteral = createToken({
  name: 'NumberLiteral',
  label: 'a number',
  pattern: /\d+(?:\.\d*)?|\.\d+/,
});
export const Comma = createToken({ name: 'Comma', label: '","', pattern: ',' });
export const Equals = createToken({ name: 'Equals', label: '"="', pattern: '=' });
export const Dot = createToken({ name: 'Dot', label: '"."', pattern: '.' });
export const LeftParen = createToken({ name: 'LeftParen', label: '"("', pattern: '(' });
export const RightParen = createToken({ name: 'RightParen', label: '")"', pattern: ')' });
export const Semicolon = createToken({ name: 'Semicolon', label: '";"', pattern: ';' });
/** An operator, a parameter, any other character. */
const Other = createToken({ name: 'Other', pattern: /[^]/u });
const Unterminated = token('Unterminated', 'the end', matchUnterminated, { start: '\'"/$eE' });
const Space = createToken({ name: 'Space', pattern: /\s+/, group: Lexer.SKIPPED });
const LineComment = createToken({ name: 'LineComment', pattern: /--[^\n\r]*/, group: Lexer.SKIPPED });
const BlockComment = token('BlockComment', 'a comment', matchBlockComment, { start: '/', skipped: true });

/** The token type of each keyword. Reserved ones cannot be names without quotes. */
export const K: Readonly<Record<Keyword, TokenType>> = makeKeywordTokens();
const keywordByText: ReadonlyMap<string, TokenType> = new Map(Object.entries(K));

/** Tokens the grammar uses. `Word` is not before keywords: keywords are words renamed after lexing. */
export const VOCABULARY: readonly TokenType[] = [
  Space,
  LineComment,
  BlockComment,
  EscapeString,
  StringLiteral,
  QuotedName,
  DollarString,
  Unterminated,
  Word,
  Quantity,
  NumberLiteral,
  Comma,
  Equals,
  Dot,
  LeftParen,
  RightParen,
  Semicolon,
  Other,
];

const lexer = new Lexer([...VOCABULARY], { positionTracking: 'onlyOffset' });

/** The tokens of `text` without space and comments. Offsets are UTF-16 units. */
export function tokenize(text: string): readonly IToken[] {
  const { tokens } = lexer.tokenize(text);
  for (const found of tokens) {
    const keyword = found.tokenType === Word ? keywordByText.get(found.image.toUpperCase()) : undefined;
    if (keyword === undefined) continue;
    found.tokenType = keyword;
    found.tokenTypeIdx = keyword.tokenTypeIdx ?? found.tokenTypeIdx;
  }
  return tokens;
}

export function isUnterminated(found: IToken): boolean {
  return found.tokenType === Unterminated;
}

/** True for `name`, `"name"` and words that are keywords. */
export function isWord(found: IToken | undefined): found is IToken {
  return found !== undefined && (found.tokenType === Word || keywordByText.has(found.image.toUpperCase()));
}

/** The name as SQL folds it: lower case unless quoted. */
export function nameOf(found: IToken): string {
  return found.image.startsWith('"')
    ? found.image.slice(1, -1).replaceAll('""', '"')
    : found.image.toLowerCase();
}

/** The value of a string token that is written `'…'`. */
export function stringOf(found: IToken): string {
  return found.image.slice(1, -1).replaceAll("''", "'");
}

function token(
  name: string,
  label: string,
  pattern: CustomPatternMatcherFunc,
  options: { readonly start: string; readonly categories?: TokenType[]; readonly skipped?: boolean },
): TokenType {
  return createToken({
    name,
    label,
    pattern,
    line_breaks: true,
    start_chars_hint: [...options.start],
    ...(options.categories === undefined ? {} : { categories: options.categories }),
    ...(options.skipped === true ? { group: Lexer.SKIPPED } : {}),
  });
}

function makeKeywordTokens(): Record<Keyword, TokenType> {
  const reserved = new Set<string>(RESERVED);
  const entries = KEYWORDS.map((text) => [
    text,
    createToken({ name: text, label: text, pattern: Lexer.NA, categories: reserved.has(text) ? [] : [Name] }),
  ]);
  return Object.fromEntries(entries) as Record<Keyword, TokenType>; // one entry for each of KEYWORDS
}

/** The match that ends before `end`, in the form that chevrotain wants; null when there is none. */
function matched(text: string, begin: number, end: number | undefined): RegExpExecArray | null {
  if (end === undefined) return null;
  return Object.assign([text.slice(begin, end)] as [string], { index: begin, input: text });
}

function quoted(quote: string): CustomPatternMatcherFunc {
  return (text, begin) =>
    matched(text, begin, text[begin] === quote ? quotedEnd(text, begin, quote) : undefined);
}

/** The offset behind the closing quote; a doubled quote is part of the content. */
function quotedEnd(text: string, begin: number, quote: string): number | undefined {
  let at = begin + 1;
  while (true) {
    const close = text.indexOf(quote, at);
    if (close < 0) return undefined;
    if (text[close + 1] !== quote) return close + 1;
    at = close + 2;
  }
}

function matchEscapeString(text: string, begin: number): RegExpExecArray | null {
  return isEscapeStart(text, begin) ? matched(text, begin, escapeStringEnd(text, begin)) : null;
}

function isEscapeStart(text: string, begin: number): boolean {
  return (text[begin] === 'e' || text[begin] === 'E') && text[begin + 1] === "'";
}

function escapeStringEnd(text: string, begin: number): number | undefined {
  for (let at = begin + 2; at < text.length; at += 1) {
    if (text[at] === '\\') at += 1;
    else if (text[at] === "'" && text[at + 1] === "'") at += 1;
    else if (text[at] === "'") return at + 1;
  }
  return undefined;
}

const DOLLAR_TAG = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y;

function dollarTag(text: string, begin: number): string | undefined {
  DOLLAR_TAG.lastIndex = begin;
  return DOLLAR_TAG.exec(text)?.[0];
}

function matchDollarString(text: string, begin: number): RegExpExecArray | null {
  const tag = dollarTag(text, begin);
  if (tag === undefined) return null;
  const close = text.indexOf(tag, begin + tag.length);
  return matched(text, begin, close < 0 ? undefined : close + tag.length);
}

function matchBlockComment(text: string, begin: number): RegExpExecArray | null {
  return text.startsWith('/*', begin) ? matched(text, begin, blockCommentEnd(text, begin)) : null;
}

/** Block comments nest. */
function blockCommentEnd(text: string, begin: number): number | undefined {
  const bracket = /\/\*|\*\//g;
  bracket.lastIndex = begin;
  let depth = 0;
  for (let found = bracket.exec(text); found !== null; found = bracket.exec(text)) {
    depth += found[0] === '/*' ? 1 : -1;
    if (depth === 0) return bracket.lastIndex;
  }
  return undefined;
}

/** Comes after the whole forms: whatever opens one here never closes, and takes the rest of the text. */
function matchUnterminated(text: string, begin: number): RegExpExecArray | null {
  const opens =
    text[begin] === "'" ||
    text[begin] === '"' ||
    isEscapeStart(text, begin) ||
    text.startsWith('/*', begin) ||
    dollarTag(text, begin) !== undefined;
  return opens ? matched(text, begin, text.length) : null;
}

/**
 * The tokens of SQL, PostgreSQL's lexical rules in full (lexical structure, chapter 4.1): admin statements are parsed
 * from them and reading statements are split and classified by them. Every input gives tokens: what is no token is
 * `Other`, and an open quote or comment is `Unterminated` up to the end. Linear in the length of the text.
 *
 * `standard_conforming_strings` is taken to be on: a backslash is ordinary except in `E'…'`.
 */
import { type CustomPatternMatcherFunc, createToken, type IToken, Lexer, type TokenType } from 'chevrotain';
import { KEYWORDS, type Keyword, RESERVED } from './keywords.ts';
import {
  matchBlockComment,
  matchDollarString,
  matchEscapeString,
  matchUnterminated,
  quoted,
} from './quoting.ts';

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
    start_chars_hint: options.start.split(''),
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

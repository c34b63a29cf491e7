/**
 * A string of statements, split and understood: admin statements parsed, reading statements classified. Nothing runs
 * here. A syntax error anywhere refuses the whole string, as PostgreSQL does; a statement that is not allowed is
 * refused when its turn comes.
 */
import type { IToken } from 'chevrotain';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import { parseAdminStatement } from './grammar/admin-parser.ts';
import { isUnterminated, isWord, K, Semicolon, tokenize } from './grammar/lexer.ts';
import { classifyReading, type ReadingVerb } from './grammar/reading.ts';
import { suggestWord, syntaxError, valueError } from './grammar/syntax-error.ts';
import type { AdminStatement } from './statements.ts';

/** The longest string of statements in UTF-16 units. */
export const MAX_SQL_LENGTH = 1024 * 1024;

export type ParsedStatement =
  | { readonly kind: 'admin'; readonly statement: AdminStatement; readonly text: string }
  | {
      readonly kind: 'reading';
      readonly verb: ReadingVerb;
      /** The statement behind as many spaces as stood before it, so that error positions count in the whole string. */
      readonly sql: string;
      readonly text: string;
    }
  | { readonly kind: 'refused'; readonly error: HoldfastError; readonly text: string };

/** The statements of `text` in order; none when it is empty. Throws SYNTAX_ERROR, or INVALID_ARGUMENT when too long. */
export function parseSql(text: string): readonly ParsedStatement[] {
  if (text.length > MAX_SQL_LENGTH)
    throw new HoldfastError('INVALID_ARGUMENT', `statement of ${text.length} characters is too long`, {
      detail: `At most ${MAX_SQL_LENGTH} characters are read at once.`,
    });
  const tokens = tokenize(text);
  checkTokens(text, tokens);
  return splitStatements(tokens).map((statement) => parseStatement(text, statement));
}

function checkTokens(text: string, tokens: readonly IToken[]): void {
  const last = tokens.at(-1);
  if (last !== undefined && isUnterminated(last)) {
    const what = last.image.startsWith('/*')
      ? 'comment'
      : last.image.startsWith('"')
        ? 'quoted name'
        : 'string';
    throw valueError(text, last.startOffset, `unterminated ${what}`);
  }
  const zero = text.indexOf('\0');
  if (zero >= 0) throw valueError(text, zero, 'a statement cannot hold the character with code zero');
}

function splitStatements(tokens: readonly IToken[]): readonly (readonly IToken[])[] {
  const statements: IToken[][] = [[]];
  for (const found of tokens) {
    if (found.tokenType === Semicolon) statements.push([]);
    else statements.at(-1)?.push(found);
  }
  return statements.filter((statement) => statement.length > 0);
}

function parseStatement(text: string, tokens: readonly IToken[]): ParsedStatement {
  const begin = tokens[0]?.startOffset ?? 0;
  const last = tokens.at(-1);
  const end = last === undefined ? begin : last.startOffset + last.image.length;
  const own = text.slice(begin, end);
  if (isAdmin(text, tokens))
    return { kind: 'admin', statement: parseAdminStatement(text, tokens, end), text: own };
  try {
    const verb = classifyReading(text, tokens);
    return { kind: 'reading', verb, sql: blank(text.slice(0, begin)) + own, text: own };
  } catch (error) {
    if (!isError(error, 'PRIVILEGE')) throw error;
    return { kind: 'refused', error, text: own };
  }
}

/** Spaces in place of all characters, one for each code point; line ends stay. */
function blank(text: string): string {
  return text.replaceAll(/[^\n]/gu, ' ');
}

const BEHIND_SHOW: readonly string[] = ['PARAMETERS', 'RESTORE'];

/** Admin statements are known by their first two words; a near miss of ALTER SYSTEM is one too, misspelt. */
function isAdmin(text: string, tokens: readonly IToken[]): boolean {
  const [first, second] = tokens;
  switch (first?.tokenType) {
    case K.ALTER:
      if (second === undefined || second.tokenType === K.SYSTEM) return true;
      if (isWord(second) && suggestWord(second.image, ['SYSTEM']) !== undefined)
        throw syntaxError({ text, offset: second.startOffset, found: second.image, expected: ['SYSTEM'] });
      return false;
    case K.SHOW:
      return (
        isWord(second) &&
        BEHIND_SHOW.some(
          (word) => word === second.image.toUpperCase() || word === suggestWord(second.image, BEHIND_SHOW),
        )
      );
    case K.CREATE:
    case K.DROP:
      return second?.tokenType === K.RESOURCE;
    case K.SET:
      return second?.tokenType === K.ENCRYPTION || second?.tokenType === K.DECRYPTION;
    default:
      return false;
  }
}

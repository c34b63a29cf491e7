/**
 * Which statements are reading statements. This is the first of several fences, the one with good messages; behind it
 * stand the protocol (one statement per Parse), a role with rights on the views only, and a process of its own.
 */
import type { IToken } from 'chevrotain';
import { HoldfastError } from '../../../foundation/errors.ts';
import { Equals, isWord, K, LeftParen, nameOf, RightParen } from './lexer.ts';
import { positionOf, suggestWord, syntaxError } from './syntax-error.ts';

/** The first word of a reading statement, in capitals; `SELECT` also for one in parentheses. */
export type ReadingVerb = string;

const QUERY_VERBS = words('SELECT VALUES TABLE WITH');
const TRANSACTION_VERBS = words('BEGIN START COMMIT END ROLLBACK ABORT SAVEPOINT RELEASE');
const OTHER_READING_VERBS = words('SHOW DEALLOCATE FETCH MOVE CLOSE DISCARD');
const WRITING_VERBS = words('INSERT UPDATE DELETE MERGE');

/** PostgreSQL's other commands: refused, not unknown. */
const OTHER_COMMANDS = words(
  `INSERT UPDATE DELETE MERGE ALTER ANALYZE CALL CHECKPOINT CLUSTER COMMENT COPY CREATE DO DROP EXECUTE GRANT IMPORT
   LISTEN LOAD LOCK NOTIFY PREPARE REASSIGN REFRESH REINDEX REVOKE SECURITY TRUNCATE UNLISTEN VACUUM`,
);
const ALL_VERBS = [
  ...QUERY_VERBS,
  ...TRANSACTION_VERBS,
  ...OTHER_READING_VERBS,
  ...OTHER_COMMANDS,
  ...words('SET RESET EXPLAIN DECLARE'),
];

/** Settings that change how results look or how queries are planned, and nothing else. */
const HARMLESS_SETTINGS = words(
  `application_name bytea_output client_min_messages datestyle extra_float_digits intervalstyle lc_messages lc_monetary
   lc_numeric lc_time search_path timezone xmloption default_transaction_deferrable default_transaction_isolation
   default_transaction_read_only lock_timeout idle_in_transaction_session_timeout row_security jit geqo plan_cache_mode
   transaction_isolation transaction_read_only synchronize_seqscans max_parallel_workers_per_gather`,
);
/** Settings that decide how text is read: only with the values that this front end reads it by. */
const FIXED_SETTINGS: Readonly<Record<string, ReadonlySet<string>>> = {
  standard_conforming_strings: words('ON'),
  client_encoding: words('UTF8 UTF-8 UNICODE'),
  names: words('UTF8 UTF-8 UNICODE'),
};

type Context = { readonly text: string; readonly tokens: readonly IToken[] };

/**
 * The verb of the reading statement that `tokens` are, at least one. Throws PRIVILEGE when they are a command that does
 * more than read, SYNTAX_ERROR when they begin like no command.
 */
export function classifyReading(text: string, tokens: readonly IToken[]): ReadingVerb {
  const context = { text, tokens };
  const first = tokens.find((found) => found.tokenType !== LeftParen);
  const verb = wordAt(first);
  const parenthesized = first !== tokens[0];
  if (QUERY_VERBS.has(verb)) return checkQuery(context, verb);
  if (parenthesized || first === undefined) throw unknownVerb(context, first ?? tokens[0]);
  if (TRANSACTION_VERBS.has(verb)) return checkTransaction(context, verb);
  if (OTHER_READING_VERBS.has(verb)) return verb;
  switch (verb) {
    case 'EXPLAIN':
      return checkExplain(context);
    case 'DECLARE':
      return checkDeclare(context);
    case 'SET':
    case 'RESET':
      return checkSetting(context, verb);
    default:
      throw OTHER_COMMANDS.has(verb) ? refused(context, verb) : unknownVerb(context, first);
  }
}

/** Nothing in it may write: no INTO (it makes a table), no writing statement in or behind WITH. */
function checkQuery(context: Context, verb: string): ReadingVerb {
  const { tokens } = context;
  for (const [i, found] of tokens.entries()) {
    const word = wordAt(found);
    if (word === 'INTO') throw refused(context, `${verb} INTO`, found);
    const before = tokens[i - 1]?.tokenType;
    if (WRITING_VERBS.has(word) && (before === LeftParen || before === RightParen))
      throw refused(context, `${word} inside ${verb}`, found);
  }
  return verb === 'WITH' ? 'SELECT' : verb;
}

function checkTransaction(context: Context, verb: string): ReadingVerb {
  if (context.tokens.some((found) => wordAt(found) === 'PREPARED'))
    throw refused(context, `${verb} PREPARED`);
  return verb;
}

/** The explained statement must itself be a query: ANALYZE runs it. */
function checkExplain(context: Context): ReadingVerb {
  const { tokens } = context;
  let at = 1;
  if (tokens[at]?.tokenType === LeftParen && !QUERY_VERBS.has(wordAt(tokens[at + 1])))
    at = tokens.findIndex((found) => found.tokenType === RightParen) + 1;
  while (['ANALYZE', 'ANALYSE', 'VERBOSE'].includes(wordAt(tokens[at]))) at += 1;
  const inner = tokens.slice(at === 0 ? tokens.length : at);
  const verb = wordAt(inner.find((found) => found.tokenType !== LeftParen));
  if (!QUERY_VERBS.has(verb)) throw refused(context, `EXPLAIN ${verb}`.trim(), inner[0]);
  checkQuery({ ...context, tokens: inner }, verb);
  return 'EXPLAIN';
}

/** `DECLARE name … CURSOR … FOR query` */
function checkDeclare(context: Context): ReadingVerb {
  const at = context.tokens.findIndex((found) => found.tokenType === K.FOR);
  const inner = at < 0 ? [] : context.tokens.slice(at + 1);
  const verb = wordAt(inner.find((found) => found.tokenType !== LeftParen));
  if (!QUERY_VERBS.has(verb)) throw refused(context, `DECLARE CURSOR FOR ${verb}`.trim(), inner[0]);
  checkQuery({ ...context, tokens: inner }, verb);
  return 'DECLARE';
}

/** `SET [SESSION|LOCAL] x = …`, `SET TIME ZONE`, `SET NAMES`, `SET [SESSION CHARACTERISTICS AS] TRANSACTION`, `RESET x|ALL`. */
function checkSetting(context: Context, verb: 'SET' | 'RESET'): ReadingVerb {
  const { tokens } = context;
  let at = 1;
  const next = tokens[at + 1];
  if (['SESSION', 'LOCAL'].includes(wordAt(tokens[at])) && isWord(next) && next.tokenType !== Equals) at += 1;
  const subject = tokens[at];
  const word = wordAt(subject);
  if (word === 'TRANSACTION' || word === 'CHARACTERISTICS') return verb;
  if (word === 'TIME' && verb === 'SET') return verb;
  if (word === 'ALL' && verb === 'RESET') return verb;
  if (subject === undefined)
    throw syntaxError({ ...context, offset: context.text.length, found: undefined, expected: [] });
  const setting = nameOf(subject);
  if (HARMLESS_SETTINGS.has(setting)) return verb;
  const value = tokens.at(-1)?.image.replaceAll(/['"]/g, '').toUpperCase() ?? '';
  if (verb === 'SET' && FIXED_SETTINGS[setting]?.has(value) === true) return verb;
  throw refused(context, `${verb} ${word === '' ? subject.image : word}`, subject);
}

function words(text: string): ReadonlySet<string> {
  return new Set(text.split(/\s+/));
}

function wordAt(found: IToken | undefined): string {
  return isWord(found) ? found.image.toUpperCase() : '';
}

function refused({ text, tokens }: Context, what: string, at = tokens[0]): HoldfastError {
  return new HoldfastError(
    'PRIVILEGE',
    `${what} is not for this server: it runs admin statements and reads views`,
    {
      hint: 'Reading statements are SELECT, VALUES, TABLE, SHOW, EXPLAIN, cursors and transactions; \\dv lists the views.',
      ...(at === undefined ? {} : { position: positionOf(text, at.startOffset) }),
    },
  );
}

function unknownVerb({ text }: Context, found: IToken | undefined): HoldfastError {
  const near = found?.image ?? '';
  const meant = suggestWord(near, ALL_VERBS);
  return syntaxError({
    text,
    offset: found?.startOffset ?? text.length,
    found: found?.image,
    expected: meant === undefined ? [] : [meant],
  });
}

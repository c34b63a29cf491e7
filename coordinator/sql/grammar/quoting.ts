/** Where quoted things end: SQL's strings, names, dollar quotes and nested comments. Each match is linear. */
import type { CustomPatternMatcherFunc } from 'chevrotain';

const DOLLAR_TAG = /\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$/y;

/** The match that ends before `end`, in the form that chevrotain wants; null when there is none. */
function matched(text: string, begin: number, end: number | undefined): RegExpExecArray | null {
  if (end === undefined) return null;
  return Object.assign([text.slice(begin, end)] as [string], { index: begin, input: text });
}

export function quoted(quote: string): CustomPatternMatcherFunc {
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

export function matchEscapeString(text: string, begin: number): RegExpExecArray | null {
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

function dollarTag(text: string, begin: number): string | undefined {
  DOLLAR_TAG.lastIndex = begin;
  return DOLLAR_TAG.exec(text)?.[0];
}

export function matchDollarString(text: string, begin: number): RegExpExecArray | null {
  const tag = dollarTag(text, begin);
  if (tag === undefined) return null;
  const close = text.indexOf(tag, begin + tag.length);
  return matched(text, begin, close < 0 ? undefined : close + tag.length);
}

export function matchBlockComment(text: string, begin: number): RegExpExecArray | null {
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
export function matchUnterminated(text: string, begin: number): RegExpExecArray | null {
  const opens =
    text[begin] === "'" ||
    text[begin] === '"' ||
    isEscapeStart(text, begin) ||
    text.startsWith('/*', begin) ||
    dollarTag(text, begin) !== undefined;
  return opens ? matched(text, begin, text.length) : null;
}

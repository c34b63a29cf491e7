/** Messages of a PostgreSQL client: decodes those that clients send us, encodes those that we send a reader. */
import type { ValueFormat } from './backend-messages.ts';
import { BodyReader, type Frame, frame } from './frames.ts';

export type FrontendMessage =
  | { readonly kind: 'query'; readonly sql: string }
  | { readonly kind: 'parse'; readonly name: string; readonly sql: string; readonly parameterTypes: number }
  | {
      readonly kind: 'bind';
      readonly portal: string;
      readonly statement: string;
      readonly parameters: number;
      readonly resultFormats: readonly ValueFormat[];
    }
  | { readonly kind: 'describe' | 'close'; readonly target: 'statement' | 'portal'; readonly name: string }
  /** `maxRows` 0: all. */
  | { readonly kind: 'execute'; readonly portal: string; readonly maxRows: number }
  | { readonly kind: 'sync' }
  | { readonly kind: 'flush' }
  | { readonly kind: 'terminate' }
  /** COPY data and its end: drained, as PostgreSQL does outside of COPY. */
  | { readonly kind: 'copy' }
  | { readonly kind: 'password'; readonly body: Buffer }
  | { readonly kind: 'unknown'; readonly type: string };

/** Throws INVALID_ARGUMENT when the message is shorter than its fields. */
export function decodeFrontend({ type, bytes }: Frame): FrontendMessage {
  const body = new BodyReader(bytes);
  switch (type) {
    case 'Q':
      return { kind: 'query', sql: body.string() };
    case 'P':
      return { kind: 'parse', name: body.string(), sql: body.string(), parameterTypes: body.int16() };
    case 'B':
      return decodeBind(body);
    case 'D':
    case 'C': {
      const target = body.letter() === 'S' ? 'statement' : 'portal';
      return { kind: type === 'D' ? 'describe' : 'close', target, name: body.string() };
    }
    case 'E':
      return { kind: 'execute', portal: body.string(), maxRows: body.int32() };
    case 'S':
      return { kind: 'sync' };
    case 'H':
      return { kind: 'flush' };
    case 'X':
      return { kind: 'terminate' };
    case 'd':
    case 'c':
    case 'f':
      return { kind: 'copy' };
    case 'p':
      return { kind: 'password', body: body.take(body.remainingBytes) };
    default:
      return { kind: 'unknown', type };
  }
}

function decodeBind(body: BodyReader): FrontendMessage {
  const portal = body.string();
  const statement = body.string();
  for (let formats = body.int16(); formats > 0; formats -= 1) body.int16();
  const parameters = body.int16();
  for (let i = 0; i < parameters; i += 1) {
    const sizeBytes = body.int32();
    if (sizeBytes > 0) body.take(sizeBytes);
  }
  const resultFormats: ValueFormat[] = [];
  for (let formats = body.int16(); formats > 0; formats -= 1) resultFormats.push(body.int16() === 1 ? 1 : 0);
  return { kind: 'bind', portal, statement, parameters, resultFormats };
}

const NO_COUNT = Buffer.alloc(2);

/** PARSE of one statement; the server infers parameter types. */
export function encodeParse(name: string, sql: string): Buffer {
  return frame('P', Buffer.concat([Buffer.from(`${name}\0${sql}\0`), NO_COUNT]));
}

/** BIND without parameters, results in the text format. */
export function encodeBind(portal: string, statement: string): Buffer {
  return frame('B', Buffer.concat([Buffer.from(`${portal}\0${statement}\0`), NO_COUNT, NO_COUNT, NO_COUNT]));
}

export function encodeDescribePortal(portal: string): Buffer {
  return frame('D', Buffer.from(`P${portal}\0`));
}

export function encodeExecute(portal: string, maxRows: number): Buffer {
  const rows = Buffer.allocUnsafe(4);
  rows.writeInt32BE(maxRows);
  return frame('E', Buffer.concat([Buffer.from(`${portal}\0`), rows]));
}

export const encodeSync = (): Buffer => frame('S', Buffer.alloc(0));
export const encodeFlush = (): Buffer => frame('H', Buffer.alloc(0));

/** The frame types that complete the answer to a frontend message of type `type`; an error always does, but to Sync. */
export function completes(type: string, answer: string): boolean {
  if (type === 'S') return answer === 'Z';
  return answer === 'E' || (COMPLETING[type] ?? '').includes(answer);
}

const COMPLETING: Readonly<Record<string, string>> = { P: '1', B: '2', D: 'Tn', E: 'CsI', C: '3' };

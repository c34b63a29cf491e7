/** Carries pieces of log from where they come from to a parser. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { WalParser } from './parser.ts';

/** Raw log; each piece begins where the one before ended. */
export type LogPieces = AsyncIterable<{ readonly begin: Lsn; readonly data: Uint8Array }>;

/**
 * Pushes the pieces, as they come, until they end or the parser is stopped, and yields after each push. What lies
 * before the parser's position in the first pieces is left out. Throws what the parser and the pieces throw, and the
 * signal's reason.
 */
export async function* feedLog(
  parser: WalParser,
  pieces: LogPieces,
  signal: AbortSignal | undefined,
): AsyncGenerator<undefined> {
  for await (const piece of pieces) {
    signal?.throwIfAborted();
    const skip = parser.position - piece.begin;
    if (skip >= BigInt(piece.data.length)) continue;
    if (skip > 0n) parser.push(parser.position, piece.data.subarray(Number(skip)));
    else parser.push(piece.begin, piece.data);
    yield undefined;
    if (parser.stopped) return;
  }
}

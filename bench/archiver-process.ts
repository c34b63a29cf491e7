/** The child of `archiver-child.ts`: archives until it is ended, and flushes its log up to each position it is sent. */
import { parseLsn } from '../foundation/lsn.ts';
import { type ArchiverOptions, startArchiver } from '../test/support/archiver.ts';

export type ArchiverOrder = ArchiverOptions;

const order = JSON.parse(process.argv[2] ?? 'null') as ArchiverOrder; // from archiver-child.ts
const archiver = startArchiver(order);
process.on('message', (lsn) => archiver.flush(parseLsn(String(lsn)), true));
process.on('disconnect', () => process.exit(0));
await archiver.result;

/**
 * The child of `holdfast.ts`: runs the agent's backup or restore in a process of its own, so that start-up, memory and CPU
 * time are measured as they are for pgBackRest. Argument: a `ChildOrder` as JSON.
 */
import { runRestore } from '../agent/restore/restore.ts';
import { backUp, GROUP, ROOT } from '../test/support/backup-task.ts';
import { publishSet } from '../test/support/hand-archive.ts';
import { binDirectory, freePort, serverUser } from '../test/support/postgres.ts';

export type ChildOrder =
  | {
      readonly kind: 'backup';
      readonly port: number;
      readonly destination: string;
      readonly compression: string;
    }
  | { readonly kind: 'restore'; readonly destination: string; readonly target: string };

const SIGNAL = new AbortController().signal;
const order = JSON.parse(process.argv[2] ?? 'null') as ChildOrder; // from holdfast.ts

if (order.kind === 'backup') {
  const { port, destination, compression } = order;
  const backup = await backUp({ port, destination, task: { compression, concurrency: 2 } });
  await publishSet(destination, backup);
  console.log(JSON.stringify({ startLsn: String(backup.start?.lsn ?? 0n) }));
} else {
  await runRestore(
    {
      uri: `file://${order.destination}`,
      root: ROOT,
      set: { tenantId: 1n, fullSetId: 1n, setId: 1n },
      round: 1n,
      partitionGroup: GROUP,
      target: { kind: 'endOfLog' },
      timeline: undefined,
      delta: false,
      dataDirectory: order.target,
      tablespaceMap: new Map(),
      concurrency: 2,
      user: serverUser(),
      unit: undefined,
      checkUser: 'postgres',
      start: false,
      binDirectory: () => binDirectory(15),
      port: freePort,
    },
    () => undefined,
    SIGNAL,
  );
}

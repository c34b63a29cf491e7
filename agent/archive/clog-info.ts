/**
 * clog_info/<server_id>_<ip>_<port>: what this node has archived since when, for people and for finding a log's writer. A
 * summary: nothing is decided from it. All archivers of a node share the file of a destination, so its changes are made one
 * at a time; a destination that hangs holds up nobody else's.
 */
import { create } from '@bufbuild/protobuf';
import { isError } from '../../foundation/errors.ts';
import {
  type ServerClogGroup,
  ServerClogGroupSchema,
  type ServerClogInfo,
  ServerClogInfoSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { readInfoIfThere, replaceSummary } from '../../storage-layout/records/info-file.ts';
import { type ServerKey, tree } from '../../storage-layout/tree.ts';
import type { LogPlace } from './place.ts';

/** The last change of each file. There are as many as destinations. */
const changes = new Map<string, Promise<void>>();

/** Adds or renews the entry of the partition group's round. Throws the signal's reason, also while the store hangs. */
export async function noteInClogInfo(
  place: LogPlace,
  server: ServerKey,
  entry: Omit<ServerClogGroup, '$typeName' | '$unknown'>,
  signal: AbortSignal,
): Promise<void> {
  const file = `${place.medium.displayUri} ${tree.clogInfo(place.root, server)}`;
  const before = changes.get(file) ?? Promise.resolve();
  const change = before.then(() => rewrite(place, server, entry, signal));
  const settled = change.catch(() => undefined); // each caller sees its own failure
  changes.set(file, settled);
  await orAborted(change, signal);
}

async function orAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  try {
    await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    work.catch(() => undefined); // left behind, or reported already
  }
}

async function rewrite(
  place: LogPlace,
  server: ServerKey,
  entry: Omit<ServerClogGroup, '$typeName' | '$unknown'>,
  signal: AbortSignal,
): Promise<void> {
  const key = tree.clogInfo(place.root, server);
  const known = await readOrForget(place, key, signal);
  const others = (known?.groups ?? []).filter(
    (group) =>
      group.tenantId !== entry.tenantId ||
      group.partitionGroup !== entry.partitionGroup ||
      group.round !== entry.round,
  );
  const info = create(ServerClogInfoSchema, {
    ...server,
    groups: [...others, create(ServerClogGroupSchema, entry)],
  });
  await replaceSummary(place.medium, key, ServerClogInfoSchema, info, signal);
}

/** A damaged summary is written anew. */
async function readOrForget(
  place: LogPlace,
  key: string,
  signal: AbortSignal,
): Promise<ServerClogInfo | undefined> {
  try {
    return await readInfoIfThere(place.medium, key, ServerClogInfoSchema, signal);
  } catch (error) {
    if (isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) return undefined;
    throw error;
  }
}

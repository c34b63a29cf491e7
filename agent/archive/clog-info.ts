/**
 * clog_info/<server_id>_<ip>_<port>: what this node has archived since when, for people and for finding a log's writer. A
 * summary: nothing is decided from it. All archivers of a node share the file, so its changes are made one at a time.
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

let lastChange: Promise<void> = Promise.resolve();

/** Adds or renews the entry of the partition group's round. */
export async function noteInClogInfo(
  place: LogPlace,
  server: ServerKey,
  entry: Omit<ServerClogGroup, '$typeName' | '$unknown'>,
  signal: AbortSignal,
): Promise<void> {
  const change = lastChange.then(() => rewrite(place, server, entry, signal));
  lastChange = change.catch(() => undefined); // each caller sees its own failure
  await change;
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

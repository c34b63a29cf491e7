/**
 * What a round says of one partition group: where its log begins, once for each membership of the group in the round, and
 * where it ended. Damage to the files that say so goes to the findings.
 */
import { type Lsn, type Timeline, toLsn, toTimeline } from '../../foundation/lsn.ts';
import {
  RoundBeginSchema,
  RoundEndSchema,
  type RoundGroupStart,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { roundKeyPlace } from '../../storage-layout/encryption/key-records.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfo } from '../../storage-layout/records/info-file.ts';
import { parseTreePath, type RoundKey, type TreeRoot, tree } from '../../storage-layout/tree.ts';
import { checkKeyRecord } from './check-keys.ts';
import { type Findings, tolerate } from './findings.ts';

export type LogStart = { readonly timeline: Timeline; readonly lsn: Lsn };

export type RoundOfGroup = {
  readonly start: RoundGroupStart;
  /** Where the group's log begins anew after it had left. */
  readonly laterStarts: readonly LogStart[];
  /** It is a member no more: its last log file need not be complete. */
  readonly hasLeft: boolean;
};

/** Undefined: nothing says where the group's log begins, or nothing opens it any more, and that is a finding. */
export async function readRoundStart(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<RoundOfGroup | undefined> {
  const key = tree.roundBegin(root, round);
  const before = findings.count;
  const begin = await tolerate(findings, key, () => readInfo(medium, key, RoundBeginSchema, signal));
  const { begun, last } = await readMember(medium, root, round, group, findings, signal);
  const keys = roundKeyPlace(medium, root, round);
  if (begin !== undefined && !(await checkKeyRecord(keys, begin.encryptionMode, findings, signal)))
    return undefined;
  const first = begin?.groups.find(({ partitionGroup }) => partitionGroup === group);
  const [start, ...later] = first === undefined ? begun : [first, ...begun];
  if (start !== undefined) return { start, laterStarts: later.flatMap(startOf), hasLeft: last === 'left' };
  if (findings.count === before)
    findings.add({
      code: 'DATA_CORRUPT',
      key,
      offset: undefined,
      message: `${key} does not name partition group ${group}, and no file under members/ says where its log begins`,
    });
  return undefined;
}

type Member = {
  /** By membership. */
  readonly begun: readonly RoundGroupStart[];
  /** What happened last to the group. */
  readonly last: 'joined' | 'left' | undefined;
};

/** Reads all of the group's files under members/. */
async function readMember(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<Member> {
  const directory = tree.memberDirectory(root, round, group);
  const begun: { readonly membership: number; readonly start: RoundGroupStart }[] = [];
  let joined = 0;
  let left = 0;
  for (const name of await medium.listNames(directory, signal)) {
    const file = `${directory}/${name}`;
    const path = parseTreePath(file);
    await tolerate(findings, file, async () => {
      if (path?.kind === 'memberJoined') {
        await readInfo(medium, file, RoundMemberJoinedSchema, signal);
        joined = Math.max(joined, path.membership);
      } else if (path?.kind === 'memberLeft') {
        await readInfo(medium, file, RoundMemberLeftSchema, signal);
        left = Math.max(left, path.membership);
      } else if (path?.kind === 'memberBegin') {
        const { start } = await readInfo(medium, file, RoundMemberBeginSchema, signal);
        if (start !== undefined) begun.push({ membership: path.membership, start });
      }
    });
  }
  const inOrder = begun.toSorted((a, b) => a.membership - b.membership);
  return {
    begun: inOrder.map(({ start }) => start),
    last: left > 0 && left >= joined ? 'left' : joined > 0 ? 'joined' : undefined,
  };
}

function startOf({ start }: RoundGroupStart): readonly LogStart[] {
  return start === undefined ? [] : [{ timeline: toTimeline(start.timeline), lsn: toLsn(start.lsn) }];
}

export type RoundEndOfGroup = {
  /** What was archived up to there must be there; undefined: not known. */
  readonly until: LogStart | undefined;
  /** Nobody writes to the round any more. */
  readonly isEnded: boolean;
};

export async function readRoundEnd(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  group: string,
  findings: Findings,
  signal: AbortSignal,
): Promise<RoundEndOfGroup> {
  const key = tree.roundEnd(root, round);
  if ((await medium.stat(key, signal)) === undefined) return { until: undefined, isEnded: false };
  const ended = await tolerate(findings, key, () => readInfo(medium, key, RoundEndSchema, signal));
  const end = ended?.groups.find(({ partitionGroup }) => partitionGroup === group)?.end;
  const until =
    end === undefined || end.timeline === 0
      ? undefined
      : { timeline: toTimeline(end.timeline), lsn: toLsn(end.lsn) };
  return { until, isEnded: true };
}

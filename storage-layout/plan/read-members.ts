/** Reads who was a member of a round, and when, from its write-once files. */
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import {
  type RoundBegin,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import type { Medium } from '../media/medium.ts';
import { readInfo } from '../records/info-file.ts';
import { type RoundKey, type TreeRoot, tree } from '../tree.ts';
import { type GroupMembership, type MemberRecords, planMemberships } from './membership.ts';

/** Throws DATA_CORRUPT, FORMAT_UNKNOWN and the medium's errors: what is not known of a round's members is no guess. */
export async function readMembers(
  medium: Medium,
  root: TreeRoot,
  round: RoundKey,
  begin: RoundBegin,
  signal?: AbortSignal,
): Promise<readonly GroupMembership[]> {
  const records: MemberRecords[] = [];
  for (const partitionGroup of await medium.listNames(tree.membersDirectory(root, round), signal)) {
    const names = await medium.listNames(tree.memberDirectory(root, round, partitionGroup), signal);
    const readAll = async <Desc extends DescMessage>(
      suffix: string,
      schema: Desc,
      keyOf: (membership: number) => string,
    ): Promise<readonly MessageShape<Desc>[]> => {
      const found: MessageShape<Desc>[] = [];
      for (const membership of numbersOf(names, suffix))
        found.push(await readInfo(medium, keyOf(membership), schema, signal));
      return found;
    };
    records.push({
      partitionGroup,
      joined: await readAll('joined', RoundMemberJoinedSchema, (n) =>
        tree.memberJoined(root, round, partitionGroup, n),
      ),
      begun: await readAll('begin', RoundMemberBeginSchema, (n) =>
        tree.memberBegin(root, round, partitionGroup, n),
      ),
      left: await readAll('left', RoundMemberLeftSchema, (n) =>
        tree.memberLeft(root, round, partitionGroup, n),
      ),
    });
  }
  return planMemberships(begin, records);
}

function numbersOf(names: readonly string[], suffix: string): readonly number[] {
  return names.flatMap((name) => {
    const match = /^([1-9][0-9]{0,8})\.([a-z]+)$/.exec(name);
    return match?.[1] !== undefined && match[2] === suffix ? [Number(match[1])] : [];
  });
}

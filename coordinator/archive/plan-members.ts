/** What a running round has to do about its partition groups. Pure. */
import type { RoundMember } from '../catalog/members.ts';
import type { RoundGroup } from '../catalog/rounds.ts';

export type MemberPlan = {
  /** Declared, and no members yet. */
  readonly join: readonly string[];
  /** Members, or on their way to be, that are declared no more. */
  readonly leave: readonly string[];
  /** Members whose archiver has reported where their log begins. */
  readonly begin: readonly RoundGroup[];
};

/**
 * `declared`: the tenant's groups now. While the round is BEGINNING a group is in it when it has a row (`members` is empty
 * then); from DOING on it must be a member by what the destination says, too.
 */
export function planMembers(input: {
  readonly state: 'BEGINNING' | 'DOING';
  readonly declared: readonly string[];
  readonly rows: readonly RoundGroup[];
  readonly members: readonly RoundMember[];
}): MemberPlan {
  const declared = new Set(input.declared);
  const active = new Map(
    input.rows.filter((row) => row.left_us === 0n).map((row) => [row.partition_group, row]),
  );
  const open = new Map(
    input.members.filter((member) => member.left_us === 0n).map((member) => [member.partition_group, member]),
  );
  const isIn = (name: string) => active.has(name) && (input.state === 'BEGINNING' || open.has(name));
  return {
    join: [...declared].filter((name) => !isIn(name)),
    leave: [...new Set([...open.keys(), ...active.keys()])].filter((name) => !declared.has(name)),
    begin: [...active.values()].filter((row) => {
      const member = open.get(row.partition_group);
      if (member === undefined || !declared.has(row.partition_group) || !hasStart(row)) return false;
      return !member.begun || !row.begun;
    }),
  };
}

/** What an archiver reports once the first of its log is durable. */
function hasStart(row: RoundGroup): boolean {
  return row.state === 'DOING' && row.start_lsn !== null && row.system_identifier !== '0';
}

/**
 * After a hole in a round that had begun the log goes on in a new one, by archive_auto_new_round. One that cannot begin
 * (what ended the last is there still) is followed too, later each time; a round that the user began and that never worked
 * is not.
 */
import { listRoundsSinceBegun, type Round } from '../catalog/rounds.ts';
import type { CoordinatorContext } from '../context.ts';
import { parameterIsOn } from '../parameters/values.ts';

const FIRST_DELAY_US = 5_000_000n;
const MAX_DELAY_US = 900_000_000n;

export type RoundFate = Pick<Round, 'state' | 'start_us'>;

/**
 * How long after the newest round's end the next one begins, in microseconds; undefined when none follows. `rounds`:
 * newest first, down to the newest that had begun.
 */
export function followDelayUs(rounds: readonly RoundFate[]): bigint | undefined {
  const last = rounds.at(-1);
  if (last === undefined || last.start_us === 0n) return undefined;
  if (rounds.some(({ state }) => state !== 'INTERRUPTED')) return undefined;
  const delayUs = FIRST_DELAY_US << BigInt(rounds.length - 1);
  return delayUs < MAX_DELAY_US ? delayUs : MAX_DELAY_US;
}

/** `followDelayUs` for the tenant's newest round, as it is given. */
export async function nextRoundDelayUs(
  context: CoordinatorContext,
  round: Round,
): Promise<bigint | undefined> {
  if (round.state !== 'INTERRUPTED') return undefined;
  if (!(await parameterIsOn(context.catalog, 'archive_auto_new_round', round.tenant_id))) return undefined;
  const known = await listRoundsSinceBegun(context.catalog, round.tenant_id);
  const earlier = known.filter((each) => each.round < round.round);
  return followDelayUs(round.start_us === 0n ? [round, ...earlier] : [round]);
}

export async function isFollowed(context: CoordinatorContext, round: Round): Promise<boolean> {
  return (await nextRoundDelayUs(context, round)) !== undefined;
}

/** What an archiver's report changes that someone should know of: once per change, however often it is reported. Pure. */
import { formatSize } from '../../foundation/units.ts';
import { type ArchiveProgress, DestinationReach } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { formatInstant } from '../../storage-layout/plan/windows.ts';
import type { NewEvent, Severity } from '../catalog/events.ts';
import type { RoundGroup } from '../catalog/rounds.ts';

type Known = Pick<
  RoundGroup,
  'tenant_id' | 'round' | 'partition_group' | 'instance' | 'slot_state' | 'destination_away_us'
>;
type Reported = Pick<
  ArchiveProgress,
  | 'state'
  | 'slotState'
  | 'slotRetainedBytes'
  | 'destination'
  | 'destinationAwayUs'
  | 'lastError'
  | 'backlogBytes'
>;

/** The events of a report, given what was known before it. */
export function changesOf(known: Known, reported: Reported, nowUs: bigint): readonly NewEvent[] {
  return [...destinationChange(known, reported, nowUs), ...slotChange(known, reported)];
}

/** Since when the destination is away, after the report; undefined: as before. */
export function awaySince(reported: Pick<Reported, 'destination' | 'destinationAwayUs'>): bigint | undefined {
  switch (reported.destination) {
    case DestinationReach.AWAY:
      return reported.destinationAwayUs;
    case DestinationReach.REACHED:
      return 0n;
    default:
      return undefined; // a new archiver, which does not know yet, or a newer agent
  }
}

function destinationChange(known: Known, reported: Reported, nowUs: bigint): readonly NewEvent[] {
  const since = awaySince(reported);
  const before = known.destination_away_us;
  if (since === undefined || (since === 0n) === (before === 0n)) return [];
  if (since !== 0n)
    return [awayEvent(known, since, reported.lastError === '' ? 'it does not answer' : reported.lastError)];
  const seconds = Number((nowUs - before) / 1_000_000n);
  return [
    eventOf(known, 'destination_back', 'INFO', {
      message: `the destination is back; it was out of reach for ${seconds} s, since ${formatInstant(before)}`,
      facts: { since_us: before, seconds, backlog_bytes: reported.backlogBytes },
    }),
  ];
}

/** Told by the archiver's own coordinator too, when it cannot even begin one. */
export function awayEvent(known: Known, sinceUs: bigint, why: string): NewEvent {
  return eventOf(known, 'destination_away', 'WARNING', {
    message: `the destination is out of reach since ${formatInstant(sinceUs)} (${why}). The log waits in the server's slot.`,
    facts: { since_us: sinceUs },
  });
}

/** What a slot's state means for the log that it holds; whatever else a server says is a reason why it was invalidated. */
const SLOT_MEANING: Readonly<Record<string, readonly [Severity, string]>> = {
  reserved: ['INFO', 'the server keeps its log within max_wal_size'],
  extended: ['WARNING', 'the server keeps more log than max_wal_size for it'],
  unreserved: ['WARNING', 'the server gives its log up at the next checkpoint'],
  missing: ['ERROR', 'it was dropped behind the archiver; it is made anew, if the log is still there'],
};

function slotChange(known: Known, reported: Reported): readonly NewEvent[] {
  const { slotState } = reported;
  const before = known.slot_state;
  // An archiver that ends drops its slot, and one that begins makes it.
  const expected = before === '' && (slotState === 'reserved' || slotState === 'missing');
  if (slotState === '' || slotState === before || expected || reported.state === 'STOPPING') return [];
  const [severity, meaning] = SLOT_MEANING[slotState] ?? ['ERROR', 'the log that it held is given up'];
  return [
    eventOf(known, 'slot_state_changed', severity, {
      message: `the replication slot on instance "${known.instance}" is ${slotState}: ${meaning} (${formatSize(reported.slotRetainedBytes)} kept)`,
      facts: { slot_state: slotState, before, retained_bytes: reported.slotRetainedBytes },
    }),
  ];
}

function eventOf(
  known: Known,
  event: string,
  severity: Severity,
  { message, facts }: { readonly message: string; readonly facts: Record<string, string | number | bigint> },
): NewEvent {
  return {
    module: 'archive',
    event,
    severity,
    tenantId: known.tenant_id,
    message: `partition group ${known.partition_group}: ${message}`,
    facts: {
      round: known.round,
      partition_group: known.partition_group,
      instance: known.instance,
      ...facts,
    },
  };
}

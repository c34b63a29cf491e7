/** Events: every change of a state, kept for CDB_OB_EVENT_HISTORY and WatchEvents. */
import type { Queryable } from './catalog.ts';
import { insertRow } from './rows.ts';

export type Severity = 'INFO' | 'WARNING' | 'ERROR';
export type NewEvent = {
  /** `archive`, `backup`, `restore`, `agent`, `tenant`, `parameter`, `resource`. */
  readonly module: string;
  /** `round_doing`, `backup_completed`, … */
  readonly event: string;
  readonly severity?: Severity;
  readonly tenantId?: bigint;
  readonly tenantName?: string;
  readonly message: string;
  readonly facts?: Readonly<Record<string, string | number | bigint>>;
};
export type EventRow = {
  readonly event_id: bigint;
  readonly time_us: bigint;
  readonly module: string;
  readonly event: string;
  readonly severity: Severity;
  readonly tenant_id: bigint;
  readonly tenant_name: string;
  readonly message: string;
  readonly facts: Readonly<Record<string, string>>;
};

/** Records an event in the transaction of the change that it reports. */
export async function recordEvent(tx: Queryable, event: NewEvent, nowUs: bigint): Promise<void> {
  const facts = Object.entries(event.facts ?? {}).map(([name, value]) => [name, String(value)] as const);
  await insertRow(
    tx,
    'events',
    {
      time_us: nowUs,
      module: event.module,
      event: event.event,
      severity: event.severity ?? 'INFO',
      tenant_id: event.tenantId ?? 0n,
      tenant_name: event.tenantName ?? '',
      message: event.message,
      facts: JSON.stringify(Object.fromEntries(facts)),
    },
    'event_id',
  );
}

/** At most `limit` events behind `afterId`, oldest first. */
export async function listEvents(
  db: Queryable,
  afterId: bigint,
  limit: number,
): Promise<readonly EventRow[]> {
  return await db.query<EventRow>(
    `SELECT event_id, time_us, module, event, severity, tenant_id, tenant_name, message, facts
     FROM holdfast.events WHERE event_id > $1 ORDER BY event_id LIMIT $2`,
    [afterId, limit],
  );
}

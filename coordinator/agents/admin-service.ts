/** AdminService.WatchEvents: events as messages. Execute is the SQL front end's (coordinator/sql). */
import { create } from '@bufbuild/protobuf';
import { type Event, EventSchema, type WatchEventsRequest } from '../../proto/gen/holdfast/v1/admin_pb.ts';
import type { CoordinatorContext } from '../context.ts';
import { watchEvents } from '../events/bus.ts';
import { type Credentials, checkLogin } from '../sql/credentials.ts';

/** Until `signal` aborts. Events say as much as the views do: who may not read those is told nothing. Throws AUTHENTICATION_FAILED. */
export async function* serveEvents(
  context: CoordinatorContext,
  credentials: Credentials,
  request: WatchEventsRequest,
  signal: AbortSignal,
): AsyncGenerator<Event> {
  await checkLogin(credentials, request.user, request.password);
  const events = watchEvents(context.catalog, context.bus, context.clock, request.afterEventId, signal);
  for await (const event of events) {
    yield create(EventSchema, {
      eventId: event.event_id,
      timeUs: event.time_us,
      module: event.module,
      event: event.event,
      tenantId: event.tenant_id,
      tenantName: event.tenant_name,
      message: event.message,
      severity: event.severity,
      facts: { ...event.facts },
    });
  }
}

/** AdminService.Execute: statements over gRPC. One call is one client session. */
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { assertNever } from '../../foundation/assert.ts';
import { toHoldfastError } from '../../foundation/errors.ts';
import {
  type ExecuteRequest,
  type ExecuteResponse,
  ExecuteResponseSchema,
  type ValueSchema,
} from '../../proto/gen/holdfast/v1/admin_pb.ts';
import { toErrorDetail } from '../../proto/grpc-service.ts';
import { type Credentials, checkLogin } from './credentials.ts';
import {
  decodeDataRow,
  decodeError,
  decodeNotice,
  decodeRowDescription,
  decodeTag,
  type TypedColumn,
} from './decode-frames.ts';
import { createClient, runStatement, type SqlServices, type StatementEvent } from './execute.ts';
import { parseSql } from './parse.ts';
import { type SqlValue, TYPE_OIDS } from './results.ts';
import { createSession } from './session.ts';

/**
 * Runs the request's statements in order and yields what they yield; a statement's failure is yielded as `error` and
 * ends it. Throws AUTHENTICATION_FAILED.
 */
export async function* executeSql(
  services: SqlServices,
  credentials: Credentials,
  request: ExecuteRequest,
  signal: AbortSignal,
): AsyncGenerator<ExecuteResponse> {
  await checkLogin(credentials, request.user, request.password);
  await using client = createClient(services, createSession(request.user, 'holdfast sql'));
  try {
    for (const parsed of parseSql(request.sql)) {
      const columns: TypedColumn[] = [];
      for await (const event of runStatement(services, client, parsed, signal)) {
        const response = toResponse(event, columns);
        if (response !== undefined) yield response;
        if (response?.kind.case === 'error') return;
      }
    }
  } catch (error) {
    yield respond({ case: 'error', value: toErrorDetail(toHoldfastError(error)) });
  }
}

type Kind = NonNullable<MessageInitShape<typeof ExecuteResponseSchema>['kind']>;

function respond(kind: Kind): ExecuteResponse {
  return create(ExecuteResponseSchema, { kind });
}

/** `columns` is filled by the row description, for the rows after it. */
function toResponse(event: StatementEvent, columns: TypedColumn[]): ExecuteResponse | undefined {
  switch (event.kind) {
    case 'rowDescription':
      return describe(
        event.columns.map(({ name, type }) => ({ name, typeOid: TYPE_OIDS[type] })),
        columns,
      );
    case 'row':
      return row(event.values, columns);
    case 'notice':
      return respond({ case: 'notice', value: event });
    case 'complete':
      return respond({ case: 'commandComplete', value: { tag: event.tag } });
    case 'frame':
      break;
    default:
      return assertNever(event);
  }
  const { frame } = event;
  switch (frame.type) {
    case 'T':
      return describe(decodeRowDescription(frame), columns);
    case 'D':
      return row(decodeDataRow(frame, columns), columns);
    case 'C':
      return respond({ case: 'commandComplete', value: { tag: decodeTag(frame) } });
    case 'N':
      return respond({ case: 'notice', value: decodeNotice(frame) });
    case 'E':
      return respond({ case: 'error', value: decodeError(frame) });
    default:
      return undefined; // parameter status and the like: of the wire only
  }
}

function describe(described: readonly TypedColumn[], columns: TypedColumn[]): ExecuteResponse {
  columns.splice(0, columns.length, ...described);
  return respond({ case: 'rowDescription', value: { columns: [...described] } });
}

function row(values: readonly SqlValue[], columns: readonly TypedColumn[]): ExecuteResponse {
  return respond({
    case: 'row',
    value: { values: values.map((value, i) => toValue(value, columns[i]?.typeOid)) },
  });
}

function toValue(value: SqlValue, typeOid: number | undefined): MessageInitShape<typeof ValueSchema> {
  if (value === null) return { kind: { case: 'nullValue', value: true } };
  switch (typeof value) {
    case 'boolean':
      return { kind: { case: 'boolean', value } };
    case 'bigint':
      return { kind: { case: 'integer', value } };
    case 'number':
      return typeOid === TYPE_OIDS.int4
        ? { kind: { case: 'integer', value: BigInt(value) } }
        : { kind: { case: 'number', value } };
    case 'string':
      return { kind: { case: typeOid === 114 || typeOid === 3802 ? 'json' : 'text', value } };
    default:
      return { kind: { case: 'timestampUs', value: value.timestampUs } };
  }
}

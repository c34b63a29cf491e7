/**
 * Joins protobuf-es services with @grpc/grpc-js: service definitions, typed clients and servers, and errors.
 *
 * A failed call carries the whole HoldfastError as an ErrorDetail in the trailer `holdfast-error-bin`; a status without
 * that trailer (a broken connection, another server) becomes AGENT_UNREACHABLE or the code that fits its status.
 */
import type { Readable, Writable } from 'node:stream';
import {
  create,
  type DescMessage,
  type DescMethod,
  fromBinary,
  type MessageShape,
  toBinary,
} from '@bufbuild/protobuf';
import type { GenService, GenServiceMethods } from '@bufbuild/protobuf/codegenv2';
import * as grpc from '@grpc/grpc-js';
import { ERRORS, type ErrorCode, HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import { type ErrorDetail, ErrorDetailSchema } from './gen/holdfast/v1/admin_pb.ts';

export const ERROR_TRAILER = 'holdfast-error-bin';
/** Messages are small; the longest are a heartbeat of a node with many instances and a row of a wide view. */
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

export const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
  'grpc.keepalive_time_ms': 10_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': 200,
  'grpc.max_reconnect_backoff_ms': 5000,
};

type MethodOf<S> = S extends GenService<infer Methods> ? Methods : never;
type Input<M> = M extends { input: infer D extends DescMessage } ? MessageShape<D> : never;
type Output<M> = M extends { output: infer D extends DescMessage } ? MessageShape<D> : never;

export type CallOptions = {
  readonly signal?: AbortSignal | undefined;
  readonly metadata?: grpc.Metadata | undefined;
  /** The call fails with TIMEOUT when it lasts longer; undefined: no limit. */
  readonly timeoutMs?: number | undefined;
};

/** One end of a bidirectional call. `In` comes, `Out` goes. */
export type MessageStream<In, Out> = {
  /** The peer's messages until it ends. Throws a HoldfastError when the call fails. To be iterated once. */
  readonly messages: AsyncIterable<In>;
  /** Resolves when there is room for the next message. Rejects when `signal` aborts or the call is over. */
  write(message: Out, signal: AbortSignal): Promise<void>;
  /** Says that nothing more will be written. A server's end is its handler's return instead. */
  end(): void;
  /** Gives the call up. */
  cancel(): void;
  /** The peer's address, for people. */
  readonly peer: string;
};

/** What a server does for each method of `S`. Each signal aborts when the client goes away. */
export type ServiceHandlers<S> = {
  readonly [K in keyof MethodOf<S>]: MethodOf<S>[K] extends { methodKind: 'bidi_streaming' }
    ? (
        stream: MessageStream<Input<MethodOf<S>[K]>, Output<MethodOf<S>[K]>>,
        signal: AbortSignal,
      ) => Promise<void>
    : MethodOf<S>[K] extends { methodKind: 'server_streaming' }
      ? (
          request: Input<MethodOf<S>[K]>,
          signal: AbortSignal,
          call: { readonly peer: string },
        ) => AsyncIterable<Output<MethodOf<S>[K]>>
      : never;
};

/** A client of `S`. Errors are HoldfastErrors, thrown by the iteration. */
export type ServiceClient<S> = {
  readonly [K in keyof MethodOf<S>]: MethodOf<S>[K] extends { methodKind: 'bidi_streaming' }
    ? (options?: CallOptions) => MessageStream<Output<MethodOf<S>[K]>, Input<MethodOf<S>[K]>>
    : MethodOf<S>[K] extends { methodKind: 'server_streaming' }
      ? (request: Input<MethodOf<S>[K]>, options?: CallOptions) => AsyncIterable<Output<MethodOf<S>[K]>>
      : never;
} & { readonly close: () => void };

/** The grpc-js definition of a protobuf-es service, keyed by protobuf-es's local method names. */
export function serviceDefinition(service: AnyService): grpc.ServiceDefinition {
  return Object.fromEntries(
    service.methods.map((method) => [method.localName, methodDefinition(service, method)]),
  );
}

type AnyService = { readonly typeName: string; readonly methods: readonly DescMethod[] };

function methodDefinition(
  service: AnyService,
  method: DescMethod,
): grpc.MethodDefinition<MessageShape<DescMessage>, MessageShape<DescMessage>> {
  return {
    path: `/${service.typeName}/${method.name}`,
    requestStream: method.methodKind === 'bidi_streaming' || method.methodKind === 'client_streaming',
    responseStream: method.methodKind === 'bidi_streaming' || method.methodKind === 'server_streaming',
    requestSerialize: encoderOf(method.input),
    requestDeserialize: decoderOf(method.input),
    responseSerialize: encoderOf(method.output),
    responseDeserialize: decoderOf(method.output),
    originalName: method.localName,
  };
}

function encoderOf(schema: DescMessage): (message: AnyMessage) => Buffer {
  return (message) => Buffer.from(toBinary(schema, message));
}

function decoderOf(schema: DescMessage): (bytes: Buffer) => AnyMessage {
  return (bytes) => fromBinary(schema, bytes);
}

/** Adds a service to a server. What a handler throws reaches the client as the same HoldfastError. */
export function addService<Methods extends GenServiceMethods>(
  server: grpc.Server,
  service: GenService<Methods>,
  handlers: ServiceHandlers<GenService<Methods>>,
): void {
  const implementation: grpc.UntypedServiceImplementation = {};
  // The mapped type proves that the handlers fit the methods; per method the compiler cannot follow it.
  const untyped = handlers as Readonly<Record<string, unknown>>;
  for (const method of service.methods) {
    const handler = untyped[method.localName];
    implementation[method.localName] =
      method.methodKind === 'bidi_streaming'
        ? bidiCall(handler as AnyBidiHandler)
        : serverStreamingCall(handler as AnyServerStreamingHandler);
  }
  server.addService(serviceDefinition(service), implementation);
}

type AnyMessage = MessageShape<DescMessage>;
type AnyBidiHandler = (stream: MessageStream<AnyMessage, AnyMessage>, signal: AbortSignal) => Promise<void>;
type AnyServerStreamingHandler = (
  request: AnyMessage,
  signal: AbortSignal,
  call: { readonly peer: string },
) => AsyncIterable<AnyMessage>;

function bidiCall(handler: AnyBidiHandler): grpc.handleBidiStreamingCall<AnyMessage, AnyMessage> {
  return (call) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort(new HoldfastError('CANCELLED', 'the peer went away')));
    call.on('error', () => undefined); // the stream's own end is reported by 'cancelled' and by the iteration
    handler(
      streamOf(call, abort.signal, () => call.destroy()),
      abort.signal,
    ).then(
      () => call.end(),
      (error: unknown) => call.emit('error', toGrpcStatus(error)),
    );
  };
}

function streamOf(
  call: grpc.ServerDuplexStream<AnyMessage, AnyMessage> | grpc.ClientDuplexStream<AnyMessage, AnyMessage>,
  signal: AbortSignal | undefined,
  cancel: () => void,
): MessageStream<AnyMessage, AnyMessage> {
  return {
    messages: readMessages(call, signal),
    write: (message, writeSignal) => writeMessage(call, message, writeSignal),
    end: () => call.end(),
    cancel,
    get peer() {
      return call.getPeer();
    },
  };
}

/** Leaving the iteration early does not destroy the call: the status of a refusal must still go out. */
async function* readMessages(call: Readable, signal: AbortSignal | undefined): AsyncGenerator<AnyMessage> {
  try {
    for await (const message of call.iterator({ destroyOnReturn: false })) yield message as AnyMessage; // what the decoder made
  } catch (error) {
    signal?.throwIfAborted();
    throw fromGrpcError(error);
  }
}

function serverStreamingCall(
  handler: AnyServerStreamingHandler,
): grpc.handleServerStreamingCall<AnyMessage, AnyMessage> {
  return (call) => {
    const abort = new AbortController();
    call.on('cancelled', () => abort.abort(new HoldfastError('CANCELLED', 'the client went away')));
    call.on('error', () => undefined); // as above
    const run = async () => {
      for await (const message of handler(call.request, abort.signal, { peer: call.getPeer() })) {
        if (abort.signal.aborted) return;
        await writeMessage(call, message, abort.signal);
      }
    };
    run().then(
      () => call.end(),
      (error: unknown) => call.emit('error', toGrpcStatus(error)),
    );
  };
}

async function writeMessage(call: Writable, message: AnyMessage, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  if (call.destroyed || call.writableEnded)
    throw new HoldfastError('AGENT_UNREACHABLE', 'the stream is closed');
  if (call.write(message)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const aborted = () => reject(signal.reason as Error); // our own signals abort with Errors
  const closed = () =>
    reject(new HoldfastError('AGENT_UNREACHABLE', 'the stream closed while it was written'));
  call.once('drain', resolve);
  call.once('close', closed);
  signal.addEventListener('abort', aborted, { once: true });
  try {
    await promise;
  } finally {
    call.off('drain', resolve);
    call.off('close', closed);
    signal.removeEventListener('abort', aborted);
  }
}

/** A client of `service` at `address` (`host:port`). It connects at the first call; `close` ends it. */
export function makeClient<Methods extends GenServiceMethods>(
  service: GenService<Methods>,
  address: string,
  credentials: grpc.ChannelCredentials = grpc.credentials.createInsecure(),
  options: grpc.ChannelOptions = {},
): ServiceClient<GenService<Methods>> {
  const client = new grpc.Client(address, credentials, { ...CHANNEL_OPTIONS, ...options });
  const calls: Record<string, unknown> = { close: () => client.close() };
  for (const method of service.methods) {
    const definition = methodDefinition(service, method);
    calls[method.localName] =
      method.methodKind === 'bidi_streaming'
        ? (callOptions: CallOptions = {}) => openBidi(client, definition, callOptions)
        : (request: AnyMessage, callOptions: CallOptions = {}) =>
            readServerStream(client, definition, request, callOptions);
  }
  // Built from the same descriptors that the type is computed from.
  return calls as ServiceClient<GenService<Methods>>;
}

function openBidi(
  client: grpc.Client,
  definition: grpc.MethodDefinition<AnyMessage, AnyMessage>,
  options: CallOptions,
): MessageStream<AnyMessage, AnyMessage> {
  const call = client.makeBidiStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    options.metadata ?? new grpc.Metadata(),
    deadlineOf(options),
  );
  call.on('error', () => undefined); // the iteration throws it; without a listener Node would end the process
  cancelOnAbort(call, options.signal);
  return streamOf(call, options.signal, () => call.cancel());
}

async function* readServerStream(
  client: grpc.Client,
  definition: grpc.MethodDefinition<AnyMessage, AnyMessage>,
  request: AnyMessage,
  options: CallOptions,
): AsyncGenerator<AnyMessage> {
  options.signal?.throwIfAborted();
  const call = client.makeServerStreamRequest(
    definition.path,
    definition.requestSerialize,
    definition.responseDeserialize,
    request,
    options.metadata ?? new grpc.Metadata(),
    deadlineOf(options),
  );
  call.on('error', () => undefined); // as above
  cancelOnAbort(call, options.signal);
  try {
    for await (const message of call) yield message as AnyMessage; // what responseDeserialize made
  } catch (error) {
    options.signal?.throwIfAborted();
    throw fromGrpcError(error);
  } finally {
    call.cancel();
  }
}

function deadlineOf(options: CallOptions): grpc.CallOptions {
  return options.timeoutMs === undefined ? {} : { deadline: Date.now() + options.timeoutMs };
}

function cancelOnAbort(
  call: { cancel(): void; on(event: 'status', listener: () => void): unknown },
  signal: AbortSignal | undefined,
): void {
  if (signal === undefined) return;
  const cancel = () => call.cancel();
  if (signal.aborted) cancel();
  signal.addEventListener('abort', cancel, { once: true });
  call.on('status', () => signal.removeEventListener('abort', cancel));
}

// ---- errors -----------------------------------------------------------------------------------------------------

/** The error as a message. Causes stay behind: they may hold what a client must not see. */
export function toErrorDetail(error: HoldfastError): ErrorDetail {
  return create(ErrorDetailSchema, {
    code: error.code,
    number: error.facts.number ?? 0,
    sqlState: error.facts.sqlState,
    message: error.message,
    detail: error.detail ?? '',
    hint: error.hint ?? '',
    position: error.position ?? 0,
  });
}

/** The inverse. A code that this version does not know becomes INTERNAL, named in the message. */
export function fromErrorDetail(detail: ErrorDetail): HoldfastError {
  const known = Object.hasOwn(ERRORS, detail.code);
  return new HoldfastError(
    known ? (detail.code as ErrorCode) : 'INTERNAL', // checked just before
    known ? detail.message : `${detail.code}: ${detail.message}`,
    {
      ...(detail.detail === '' ? {} : { detail: detail.detail }),
      ...(detail.hint === '' ? {} : { hint: detail.hint }),
      ...(detail.position === 0 ? {} : { position: detail.position }),
    },
  );
}

/** What grpc-js wants a failed call to be ended with. */
export function toGrpcStatus(
  error: unknown,
): Error & { readonly code: number; readonly details: string; readonly metadata: grpc.Metadata } {
  const failure = toHoldfastError(error);
  const metadata = new grpc.Metadata();
  metadata.set(ERROR_TRAILER, Buffer.from(toBinary(ErrorDetailSchema, toErrorDetail(failure))));
  return Object.assign(new Error(failure.message), {
    code: failure.facts.grpc,
    details: failure.message,
    metadata,
  });
}

/** What a call threw, as the HoldfastError that the server meant, or the nearest when it said none. */
export function fromGrpcError(error: unknown): HoldfastError {
  if (!isServiceError(error)) return toHoldfastError(error);
  const trailer = error.metadata?.get(ERROR_TRAILER)[0];
  if (Buffer.isBuffer(trailer)) return fromErrorDetail(fromBinary(ErrorDetailSchema, trailer));
  return new HoldfastError(codeOfStatus(error.code), error.details, { cause: error });
}

function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error;
}

function codeOfStatus(status: grpc.status): ErrorCode {
  switch (status) {
    case grpc.status.CANCELLED:
      return 'CANCELLED';
    case grpc.status.DEADLINE_EXCEEDED:
      return 'TIMEOUT';
    case grpc.status.UNAVAILABLE:
      return 'AGENT_UNREACHABLE';
    case grpc.status.UNIMPLEMENTED:
      return 'NOT_SUPPORTED';
    case grpc.status.PERMISSION_DENIED:
    case grpc.status.UNAUTHENTICATED:
      return 'PRIVILEGE';
    default:
      return 'INTERNAL';
  }
}

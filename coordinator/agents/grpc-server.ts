/** The coordinator's gRPC port: agents attach to it, the CLI runs statements and watches events. */
import { type KeyCertPair, Server, ServerCredentials } from '@grpc/grpc-js';
import { HoldfastError } from '../../foundation/errors.ts';
import { AdminService } from '../../proto/gen/holdfast/v1/admin_pb.ts';
import { AgentService } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { addService, CHANNEL_OPTIONS, type ServiceHandlers } from '../../proto/grpc-service.ts';
import type { CoordinatorContext } from '../context.ts';
import { serveAgent } from './attach.ts';

export type GrpcServerOptions = {
  readonly host: string;
  /** 0: any free port. */
  readonly port: number;
  readonly agentToken: string | undefined;
  readonly admin: ServiceHandlers<typeof AdminService>;
  readonly tls?: { readonly pair: KeyCertPair; readonly clientCa: Buffer | undefined } | undefined;
};

export type GrpcServer = AsyncDisposable & { readonly port: number };

/** Listens. Disposing it ends every stream. Throws INVALID_CONFIG when the port is taken. */
export async function startGrpcServer(
  context: CoordinatorContext,
  options: GrpcServerOptions,
): Promise<GrpcServer> {
  const server = new Server({ ...CHANNEL_OPTIONS, 'grpc.keepalive_time_ms': 20_000 });
  addService(server, AgentService, {
    attach: (stream, signal) => serveAgent(context, options.agentToken, stream, signal),
  });
  addService(server, AdminService, options.admin);
  const port = await bind(server, options);
  return {
    port,
    async [Symbol.asyncDispose]() {
      context.hub.endAll();
      const { promise, resolve } = Promise.withResolvers<void>();
      server.tryShutdown(() => resolve());
      server.forceShutdown();
      await promise;
    },
  };
}

async function bind(server: Server, options: GrpcServerOptions): Promise<number> {
  const { host, port, tls } = options;
  const credentials =
    tls === undefined
      ? ServerCredentials.createInsecure()
      : ServerCredentials.createSsl(tls.clientCa ?? null, [tls.pair], tls.clientCa !== undefined);
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const address = host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
  server.bindAsync(address, credentials, (error, bound) => {
    if (error === null) resolve(bound);
    else
      reject(
        new HoldfastError('INVALID_CONFIG', `cannot listen on ${address}: ${error.message}`, {
          cause: error,
        }),
      );
  });
  return await promise;
}

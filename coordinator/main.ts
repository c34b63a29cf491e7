/** The coordinator's process: catalog, reconcile loop, gRPC and SQL front ends, in the order in which they may start and stop. */
import { createSecureContext, type SecureContext } from 'node:tls';
import { readKeyFile } from '../foundation/key-file.ts';
import type { Logger } from '../foundation/log.ts';
import { parseDurationMs } from '../foundation/units.ts';
import { VERSION } from '../foundation/version.ts';
import { serveEvents } from './agents/admin-service.ts';
import { startGrpcServer } from './agents/grpc-server.ts';
import { executeCommand } from './commands/execute.ts';
import { type CoordinatorConfig, LOCAL_USER, parseListen, readPem, readSecret } from './config.ts';
import type { CoordinatorContext, Timing } from './context.ts';
import { reconcileForever } from './jobs/reconcile.ts';
import { openCoordinator } from './open.ts';
import { findParameter } from './parameters/table.ts';
import { parameterMs } from './parameters/values.ts';
import { executeSql } from './sql/admin-service.ts';
import { type Credentials, makeCredentials } from './sql/credentials.ts';
import type { SqlServices } from './sql/execute.ts';
import type { Reader } from './sql/reader.ts';
import { startPgliteReader } from './sql/reading/pglite-reader.ts';
import { createPostgresqlReader } from './sql/reading/postgresql-reader.ts';
import { startWireServer } from './sql/wire/server.ts';

/** Runs until `signal` aborts, then drains: clients and agents first, the loop, then the catalog. */
export async function runCoordinator(
  config: CoordinatorConfig,
  signal: AbortSignal,
  logger: Logger,
  timing: Partial<Timing> = {},
): Promise<void> {
  const catalogUrl =
    config.catalog.kind === 'postgresql'
      ? await readSecret(config.catalog.url_file, 'catalog.url_file')
      : undefined;
  // A key file that cannot be used is told at the start, not by the first backup of the night.
  if (config.encryption !== undefined) await readKeyFile(config.encryption.key_file);
  await using opened = await openCoordinator({
    clusterName: config.cluster_name,
    clusterId: BigInt(config.cluster_id),
    stateDirectory: config.state_directory,
    catalogUrl,
    keyFile: config.encryption?.key_file,
    logger,
    timing,
  });
  await serve(opened.context, config, signal);
}

async function serve(
  context: CoordinatorContext,
  config: CoordinatorConfig,
  signal: AbortSignal,
): Promise<void> {
  const { logger } = context;
  const stop = new AbortController();
  const ended = AbortSignal.any([signal, stop.signal]);
  const loop = reconcileForever(context, ended);
  loop.catch(() => stop.abort()); // awaited below; a loop that fails ends the process
  try {
    const queryTimeout = await followQueryTimeout(context);
    await using reader = openReader(context, queryTimeout.current);
    const services: SqlServices = {
      reader,
      queryTimeoutMs: queryTimeout.current,
      executeCommand: async function* (statement, session, statementSignal) {
        yield* executeCommand(context, statement, session, AbortSignal.any([statementSignal, ended]));
        if (statement.kind === 'setParameter') await queryTimeout.refresh(); // the session's next query obeys it
      },
    };
    const credentials = await readCredentials(config);
    const grpcTls = await readGrpcTls(config);
    await using grpc = await startGrpcServer(context, {
      ...parseListen(config.grpc.listen),
      agentToken:
        config.grpc.agent_token_file === undefined
          ? undefined
          : await readSecret(config.grpc.agent_token_file, 'grpc.agent_token_file'),
      admin: {
        execute: (request, callSignal) =>
          executeSql(services, credentials, request, AbortSignal.any([callSignal, ended])),
        watchEvents: (request, callSignal) =>
          serveEvents(context, credentials, request, AbortSignal.any([callSignal, ended])),
      },
      tls: grpcTls,
    });
    await using wire = await startWireServer({
      ...parseListen(config.sql.listen),
      credentials,
      services,
      logger,
      tls: await readSqlTls(config),
    });
    logger.info(
      {
        sqlPort: wire.port,
        grpcPort: grpc.port,
        catalog: context.catalog.kind,
        epoch: String(context.epoch),
      },
      `holdfast ${VERSION} coordinates cluster ${config.cluster_name} (${config.cluster_id})`,
    );
    await untilAborted(ended, () => queryTimeout.refresh(), context);
  } finally {
    stop.abort();
    await loop;
  }
}

/** query_timeout for callers that cannot wait: read again whenever something changed. */
async function followQueryTimeout(context: CoordinatorContext) {
  let timeoutMs = parseDurationMs(findParameter('query_timeout')?.defaultValue ?? '30s');
  const refresh = async () => {
    timeoutMs = await parameterMs(context.catalog, 'query_timeout');
  };
  await refresh();
  return { current: () => timeoutMs, refresh };
}

const REFRESH_MS = 1000;

async function untilAborted(
  signal: AbortSignal,
  refresh: () => Promise<void>,
  context: CoordinatorContext,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await refresh();
      await context.clock.sleep(REFRESH_MS, signal);
    } catch (error) {
      if (signal.aborted) return;
      context.logger.warn({ err: error }, 'query_timeout could not be read');
      await context.clock.sleep(REFRESH_MS, signal).catch(() => undefined); // aborted: the loop ends
    }
  }
}

function openReader(context: CoordinatorContext, queryTimeoutMs: () => number): Reader {
  const { readerLogin } = context.catalog;
  return readerLogin === undefined
    ? startPgliteReader({ views: context.catalog, directory: context.dataDirectory })
    : createPostgresqlReader({ login: readerLogin, queryTimeoutMs });
}

/** Without users, the local user needs no password: the schema lets such a coordinator listen on this machine only. */
async function readCredentials(config: CoordinatorConfig): Promise<Credentials> {
  const { users } = config.sql;
  if (users === undefined) return { ...(await makeCredentials([])), trusts: (user) => user === LOCAL_USER };
  return await makeCredentials(
    await Promise.all(
      users.map(async ({ name, password_file }, index) => ({
        user: name,
        password: await readSecret(password_file, `sql.users[${index}].password_file`),
      })),
    ),
  );
}

async function readSqlTls(config: CoordinatorConfig): Promise<SecureContext | undefined> {
  const { tls } = config.sql;
  if (tls === undefined) return undefined;
  return createSecureContext({
    cert: await readPem(tls.certificate_file, 'sql.tls.certificate_file'),
    key: await readPem(tls.key_file, 'sql.tls.key_file'),
  });
}

async function readGrpcTls(config: CoordinatorConfig) {
  const { tls } = config.grpc;
  if (tls === undefined) return undefined;
  return {
    pair: {
      cert_chain: await readPem(tls.certificate_file, 'grpc.tls.certificate_file'),
      private_key: await readPem(tls.key_file, 'grpc.tls.key_file'),
    },
    clientCa:
      tls.client_ca_file === undefined
        ? undefined
        : await readPem(tls.client_ca_file, 'grpc.tls.client_ca_file'),
  };
}

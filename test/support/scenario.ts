/** What most end-to-end tests begin with: a shop's server, a deployment beside it, the log archived. */
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { createShop, type ShopSize, SMALL_SIZE } from '../../cli/demo/shop.ts';
import { type Deployment, type DeploymentOptions, startDeployment } from './holdfast-processes.ts';
import { createServer, serverUser, type TestServer, type TestServerOptions } from './postgres.ts';

export type Scenario = {
  readonly server: TestServer;
  readonly deployment: Deployment;
  /** The directory of tablespace shop_archive. */
  readonly tablespaceDirectory: string;
  /** Ends what `startArchivedShop` started, in order. */
  [Symbol.asyncDispose](): Promise<void>;
};

export const TENANT = 'orders';
export const DATABASE = 'shop';
/** What OPTIONAL archiving asks of a server. */
const SETTINGS = { max_slot_wal_keep_size: "'4GB'" };

/** A server with the shop in database `shop`, with its tablespace; nothing of Holdfast yet. */
export async function startShop(
  options: TestServerOptions = {},
  size: ShopSize = SMALL_SIZE,
): Promise<{ readonly server: TestServer; readonly tablespaceDirectory: string }> {
  const server = await createServer({ ...options, settings: { ...SETTINGS, ...options.settings } });
  try {
    const tablespaceDirectory = join(server.directory, 'archive-disk');
    await mkdir(tablespaceDirectory);
    const user = serverUser();
    if (user !== undefined) await chown(tablespaceDirectory, user.uid, user.gid);
    await server.query(`CREATE DATABASE ${DATABASE}`);
    const client = await server.connect(DATABASE);
    try {
      await createShop(client, size, tablespaceDirectory);
    } finally {
      await client.end();
    }
    return { server, tablespaceDirectory };
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

/** The shop, a deployment that declares it as tenant `orders`, its destination set, its round DOING. */
export async function startArchivedShop(
  options: TestServerOptions = {},
  size: ShopSize = SMALL_SIZE,
  how: Partial<Pick<DeploymentOptions, 'keyFile' | 'catalog'>> = {},
): Promise<Scenario> {
  const { server, tablespaceDirectory } = await startShop(options, size);
  try {
    const deployment = await startDeployment({
      servers: [{ name: 'orders-primary', tenant: TENANT, port: server.port }],
      ...how,
    });
    if (how.keyFile !== undefined) await deployment.sql("ALTER SYSTEM SET backup_encryption = 'on'");
    await beginArchiving(deployment);
    return {
      server,
      deployment,
      tablespaceDirectory,
      async [Symbol.asyncDispose]() {
        try {
          await deployment[Symbol.asyncDispose]();
        } finally {
          await server[Symbol.asyncDispose]();
        }
      },
    };
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

export async function beginArchiving(deployment: Deployment): Promise<void> {
  await deployment.sql(`ALTER SYSTEM SET backup_dest = '${deployment.destination}'`);
  await deployment.sql(`ALTER SYSTEM ARCHIVELOG TENANT = ${TENANT}`);
  await deployment.waitForRow<{ status: string }>(
    `SELECT * FROM CDB_OB_BACKUP_ARCHIVELOG WHERE tenant_name = '${TENANT}'`,
    (row) => row.status === 'DOING',
  );
}

/** A resource pool `spare` in zone1, for restores. */
export async function createPool(deployment: Deployment): Promise<void> {
  await deployment.sql(`CREATE RESOURCE UNIT small MAX_MEMORY '256M', MAX_SESSION_NUM 50`);
  await deployment.sql(`CREATE RESOURCE POOL spare UNIT = 'small', UNIT_NUM = 1, ZONE_LIST = ('zone1')`);
}

/** Connections to a restored server. */
export function connectorTo(port: number): (database: string) => Promise<pg.Client> {
  return async (database) => {
    const client = new pg.Client({ host: '127.0.0.1', port, user: 'postgres', database });
    client.on('error', () => undefined); // the next query reports a lost connection
    await client.connect();
    return client;
  };
}

/** The server's clock: microseconds since 1970. */
export async function clockUs(server: TestServer): Promise<bigint> {
  const [row] = await server.query<{ us: string }>(
    'SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us',
  );
  return BigInt(row?.us ?? 0);
}

/** `2026-01-02 03:04:05.678901+00`, for UNTIL TIME. */
export function formatInstant(timeUs: bigint): string {
  const whole = new Date(Number(timeUs / 1000n)).toISOString().slice(0, 19).replace('T', ' ');
  return `${whole}.${String(timeUs % 1_000_000n).padStart(6, '0')}+00`;
}

/** Opens a coordinator's state: catalog, leadership, deployment, secrets. What main.ts and tests build on. */
import { hostname } from 'node:os';
import { type Clock, systemClock } from '../foundation/clock.ts';
import type { Logger } from '../foundation/log.ts';
import { unlockingRing } from '../storage-layout/encryption/unlock.ts';
import { AgentHub } from './agents/hub.ts';
import type { Catalog } from './catalog/catalog.ts';
import { openDeployment } from './catalog/deployment.ts';
import { openPgliteCatalog } from './catalog/pglite.ts';
import { openPostgresqlCatalog } from './catalog/postgresql.ts';
import { type CoordinatorContext, DEFAULT_TIMING, type Timing } from './context.ts';
import { rootOf } from './destination/claims.ts';
import { Destinations } from './destination/destinations.ts';
import { keySecrets } from './encryption/keys.ts';
import { ChangeBus } from './events/bus.ts';
import { openSecretBox } from './parameters/secrets.ts';

export type CoordinatorOptions = {
  readonly clusterName: string;
  readonly clusterId: bigint;
  /** Holds the key file, and the embedded catalog. */
  readonly stateDirectory: string;
  /** Undefined: embedded. */
  readonly catalogUrl: string | undefined;
  readonly keyFile?: string | undefined;
  readonly logger: Logger;
  readonly clock?: Clock;
  readonly timing?: Partial<Timing>;
};

export type OpenCoordinator = AsyncDisposable & { readonly context: CoordinatorContext };

/** Takes leadership. Dispose it after everything that uses the context has ended. */
export async function openCoordinator(options: CoordinatorOptions): Promise<OpenCoordinator> {
  const clock = options.clock ?? systemClock;
  const secrets = await openSecretBox(options.stateDirectory);
  const holder = `${hostname()}:${process.pid}`;
  const { catalog, epoch } =
    options.catalogUrl === undefined
      ? await openPgliteCatalog(options.stateDirectory, holder, clock.nowUs())
      : await openPostgresqlCatalog(options.catalogUrl, holder, clock.nowUs());
  try {
    return await assemble(options, clock, catalog, epoch, secrets);
  } catch (error) {
    await catalog[Symbol.asyncDispose]();
    throw error;
  }
}

async function assemble(
  options: CoordinatorOptions,
  clock: Clock,
  catalog: Catalog,
  epoch: bigint,
  secrets: CoordinatorContext['secrets'],
): Promise<OpenCoordinator> {
  const deployment = await catalog.transaction((tx) =>
    openDeployment(tx, options.clusterName, options.clusterId),
  );
  const store = { catalog, secrets, keyFile: options.keyFile };
  const destinations = new Destinations((medium) => unlockingRing(medium, () => keySecrets(store)));
  const context: CoordinatorContext = {
    catalog,
    epoch,
    deployment,
    root: rootOf(deployment),
    destinations,
    secrets,
    hub: new AgentHub(clock),
    bus: new ChangeBus(),
    clock,
    logger: options.logger,
    timing: { ...DEFAULT_TIMING, ...options.timing },
    dataDirectory: options.stateDirectory,
    keyFile: options.keyFile,
  };
  return {
    context,
    async [Symbol.asyncDispose]() {
      await destinations[Symbol.asyncDispose]();
      await catalog[Symbol.asyncDispose]();
    },
  };
}

/**
 * What an agent keeps over a restart: its UUID, and the instances that RESTORE made on this node. One JSON file in the
 * state directory, replaced by rename.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { HoldfastError } from '../foundation/errors.ts';
import type { DeclaredInstance, RestoreSettings } from './task-context.ts';

const restoredSchema = z.strictObject({
  name: z.string(),
  tenant: z.string(),
  tenantId: z.string().regex(/^\d+$/),
  partitionGroup: z.string(),
  host: z.string(),
  port: z.number(),
  dataDirectory: z.string(),
});
const stateSchema = z.strictObject({ agentUuid: z.uuid(), restored: z.array(restoredSchema) });
type State = z.output<typeof stateSchema>;

export type RestoredInstance = {
  readonly name: string;
  readonly tenant: string;
  readonly tenantId: bigint;
  readonly partitionGroup: string;
  readonly host: string;
  readonly port: number;
  readonly dataDirectory: string;
};

export class AgentState {
  readonly directory: string;
  #state: State;
  #saved: Promise<void> = Promise.resolve();

  private constructor(directory: string, state: State) {
    this.directory = directory;
    this.#state = state;
  }

  /** Opens the state, or makes it with a new UUID. Throws INVALID_CONFIG when the directory cannot be used. */
  static async open(directory: string): Promise<AgentState> {
    try {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const text = await readFile(join(directory, 'agent.json'), 'utf8').catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
        throw error;
      });
      if (text !== undefined) return new AgentState(directory, stateSchema.parse(JSON.parse(text)));
      const made = new AgentState(directory, { agentUuid: randomUUID(), restored: [] });
      await made.#change((state) => state);
      return made;
    } catch (error) {
      throw new HoldfastError('INVALID_CONFIG', `cannot use the agent's state directory ${directory}`, {
        cause: error,
        detail: error instanceof Error ? error.message : String(error),
      });
    }
  }

  get agentUuid(): string {
    return this.#state.agentUuid;
  }

  /** The restored instances as they are declared to the coordinator and connected to. */
  restoredInstances(settings: RestoreSettings | undefined): readonly DeclaredInstance[] {
    return this.#state.restored.map((instance) => ({
      name: instance.name,
      tenant: instance.tenant,
      partitionGroup: instance.partitionGroup,
      restoredTenantId: BigInt(instance.tenantId),
      host: instance.host,
      port: instance.port,
      user: settings?.connect.user ?? 'postgres',
      database: settings?.connect.database ?? 'postgres',
      password: undefined,
      dataDirectory: instance.dataDirectory,
    }));
  }

  /** Durable when it resolves. One of the same name is replaced. */
  async addRestored(instance: RestoredInstance): Promise<void> {
    await this.#change((state) => ({
      ...state,
      restored: [
        ...state.restored.filter((each) => each.name !== instance.name),
        { ...instance, tenantId: instance.tenantId.toString() },
      ],
    }));
  }

  /** One change after the other: each begins from what the one before has saved. */
  async #change(change: (state: State) => State): Promise<void> {
    const before = this.#saved;
    const saved = before.catch(() => undefined).then(() => this.#save(change(this.#state)));
    this.#saved = saved;
    await saved;
  }

  async #save(state: State): Promise<void> {
    const target = join(this.directory, 'agent.json');
    await using file = await open(`${target}.new`, 'w', 0o600);
    await file.writeFile(`${JSON.stringify(state, undefined, 2)}\n`);
    await file.sync();
    await rename(`${target}.new`, target);
    await using directory = await open(this.directory);
    await directory.sync();
    this.#state = state;
  }
}

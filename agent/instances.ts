/** The instances of this node: those of the configuration, and those that RESTORE made here. How each is, for heartbeats. */
import { create } from '@bufbuild/protobuf';
import type { Instance } from '../engine/engine.ts';
import { connectInstance } from '../engine/postgres/engine.ts';
import { formatError, HoldfastError, toHoldfastError } from '../foundation/errors.ts';
import {
  InstanceRole,
  type InstanceStatus,
  InstanceStatusSchema,
} from '../proto/gen/holdfast/v1/agent_pb.ts';
import type { DeclaredInstance } from './task-context.ts';

const STATUS_TIMEOUT_MS = 5000;

export class Instances implements AsyncDisposable {
  readonly #declared: () => readonly DeclaredInstance[];
  /** Sessions kept for heartbeats, by instance name. */
  readonly #sessions = new Map<string, Instance>();

  constructor(declared: () => readonly DeclaredInstance[]) {
    this.#declared = declared;
  }

  all(): readonly DeclaredInstance[] {
    return this.#declared();
  }

  /** Throws INVALID_ARGUMENT when this agent declares none of that name, or none that does tasks. */
  config(name: string): DeclaredInstance {
    const found = this.all().find((instance) => instance.name === name);
    if (found?.tenant !== undefined) return found;
    if (found !== undefined)
      throw new HoldfastError('INVALID_ARGUMENT', `instance "${name}" is only watched by this agent`, {
        hint: 'To make it a member, give it a tenant in the agent configuration.',
      });
    throw new HoldfastError('INVALID_ARGUMENT', `this agent declares no instance "${name}"`, {
      hint: `It declares ${
        this.all()
          .map((instance) => instance.name)
          .join(', ') || 'none'
      }.`,
    });
  }

  /** A session of its own; the caller disposes it. */
  async connect(name: string, signal: AbortSignal): Promise<Instance> {
    return await connectInstance(this.config(name), signal);
  }

  /** One status per instance. One that does not answer in 5 s is down, with the reason; never throws but for the signal. */
  async statuses(signal: AbortSignal): Promise<readonly InstanceStatus[]> {
    const known = this.all();
    const names = new Set(known.map(({ name }) => name));
    for (const name of this.#sessions.keys()) if (!names.has(name)) await this.#forget(name);
    return await Promise.all(known.map((instance) => this.#status(instance, signal)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([...this.#sessions.keys()].map((name) => this.#forget(name)));
  }

  async #status(instance: DeclaredInstance, signal: AbortSignal): Promise<InstanceStatus> {
    const declared = {
      tenant: instance.tenant ?? '',
      partitionGroup: instance.partitionGroup,
      instance: instance.name,
      host: instance.host,
      port: instance.port,
      restored: instance.restoredTenantId !== undefined,
      tenantId: instance.restoredTenantId ?? 0n,
    };
    try {
      const identity = await this.#identify(
        instance,
        AbortSignal.any([signal, AbortSignal.timeout(STATUS_TIMEOUT_MS)]),
      );
      return create(InstanceStatusSchema, {
        ...declared,
        role: identity.role === 'primary' ? InstanceRole.PRIMARY : InstanceRole.STANDBY,
        systemIdentifier: identity.systemIdentifier,
        timeline: identity.timeline,
        lsn: identity.lsn,
        serverVersion: identity.serverVersion,
        postgresMajor: identity.major,
        dataDirectory: identity.dataDirectory,
        maxSlotWalKeepSize: identity.maxSlotWalKeepSize,
        idleReplicationSlotTimeout: identity.idleSlotTimeout,
      });
    } catch (error) {
      signal.throwIfAborted();
      await this.#forget(instance.name);
      return create(InstanceStatusSchema, {
        ...declared,
        role: InstanceRole.DOWN,
        error: isTimeout(error)
          ? `no answer within ${STATUS_TIMEOUT_MS / 1000} s`
          : formatError(toHoldfastError(error)),
        dataDirectory: instance.dataDirectory ?? '',
      });
    }
  }

  async #identify(
    instance: DeclaredInstance,
    signal: AbortSignal,
  ): Promise<Awaited<ReturnType<Instance['identify']>>> {
    const known = this.#sessions.get(instance.name);
    if (known !== undefined && known.config.port === instance.port && known.config.host === instance.host)
      return await known.identify(signal);
    await this.#forget(instance.name);
    const session = await connectInstance(instance, signal);
    this.#sessions.set(instance.name, session);
    return await session.identify(signal);
  }

  async #forget(name: string): Promise<void> {
    const session = this.#sessions.get(name);
    this.#sessions.delete(name);
    await session?.[Symbol.asyncDispose]();
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === 'TimeoutError';
}

/** PostgreSQL 14 to 18 as the first engine: makes what engine/engine.ts describes. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { Instance, InstanceConfig } from '../engine.ts';
import { PostgresInstance } from './instance.ts';
import { NEWEST_MAJOR, OLDEST_MAJOR } from './precheck.ts';

/**
 * Connects to the instance and reads who it is; the caller disposes it. Throws SERVER_UNREACHABLE (may be retried),
 * PRIVILEGE, NOT_SUPPORTED for a version outside 14 to 18.
 */
export async function connectInstance(config: InstanceConfig, signal: AbortSignal): Promise<Instance> {
  const instance = new PostgresInstance(config);
  try {
    const { major, serverVersion } = await instance.identify(signal);
    if (major < OLDEST_MAJOR || major > NEWEST_MAJOR) {
      throw new HoldfastError(
        'NOT_SUPPORTED',
        `instance "${config.name}" is PostgreSQL ${serverVersion}; ${OLDEST_MAJOR} to ${NEWEST_MAJOR} are supported`,
      );
    }
    return instance;
  } catch (error) {
    await instance[Symbol.asyncDispose]();
    throw error;
  }
}

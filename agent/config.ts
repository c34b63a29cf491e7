/** agent.yaml: its schema, and what the agent makes of it. Every key is documented in docs/configuration.md. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { HoldfastError } from '../foundation/errors.ts';
import { LOG_LEVELS } from '../foundation/log.ts';
import type { DeclaredInstance, RestoreSettings } from './task-context.ts';

const run = promisify(execFile);

const name = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/, 'use letters, digits, "_", "." and "-", at most 63 of them');
const port = z.int().min(1).max(65_535);
const path = z.string().refine(isAbsolute, 'an absolute path is wanted');
const address = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, 'host:port is wanted')
  .refine((text) => Number(text.slice(text.lastIndexOf(':') + 1)) <= 65_535, 'a port is at most 65535');

const instanceSchema = z
  .strictObject({
    name,
    /** Left out: it belongs to nobody, and is only watched. */
    tenant: name.optional(),
    /** Of the tenant; p0 when left out. */
    partition_group: name.optional(),
    host: z.string().min(1).default('127.0.0.1'),
    port: port.default(5432),
    user: z.string().min(1).default('postgres'),
    database: z.string().min(1).default('postgres'),
    password_file: path.optional(),
    data_directory: path.optional(),
  })
  .refine(({ tenant, partition_group: group }) => tenant !== undefined || group === undefined, {
    path: ['partition_group'],
    error: 'an instance without a tenant is only watched: it has no partition group',
  });

const restoreSchema = z.strictObject({
  directory: path,
  bin_directories: z.record(z.string().regex(/^\d\d$/, 'a major version is wanted, like 17'), path),
  run_as: z.string().min(1).optional(),
  port_range: z
    .string()
    .regex(/^\d{1,5}-\d{1,5}$/, 'first-last is wanted, like 15432-15531')
    .refine(isPortRange, 'a range of ports is wanted, the first one first, each from 1 to 65535')
    .default('15432-15531'),
  host: z.string().min(1).default('127.0.0.1'),
  user: z.string().min(1).default('postgres'),
  database: z.string().min(1).default('postgres'),
});

export const agentConfigSchema = z.strictObject({
  /** Where coordinators are; with several, each is tried in turn until one leads. */
  coordinator: z.union([address, z.array(address).min(1)]),
  token_file: path.optional(),
  tls: z
    .strictObject({
      ca_file: path.optional(),
      certificate_file: path.optional(),
      key_file: path.optional(),
    })
    .optional(),
  node: z.strictObject({
    ip: z.string().min(1).default('127.0.0.1'),
    port: port.default(2889),
    zone: name.default('zone1'),
  }),
  state_directory: path,
  instances: z
    .array(instanceSchema)
    .default([])
    .refine(
      (instances) => new Set(instances.map((instance) => instance.name)).size === instances.length,
      'two instances have the same name',
    ),
  restore: restoreSchema.optional(),
  log_level: z.enum(LOG_LEVELS).optional(),
});

export type AgentConfig = z.output<typeof agentConfigSchema>;

export function declaredInstances(config: AgentConfig): readonly DeclaredInstance[] {
  return config.instances.map((instance) => ({
    name: instance.name,
    tenant: instance.tenant,
    partitionGroup: instance.tenant === undefined ? '' : (instance.partition_group ?? 'p0'),
    restoredTenantId: undefined,
    host: instance.host,
    port: instance.port,
    user: instance.user,
    database: instance.database,
    password: instance.password_file === undefined ? undefined : secretReader(instance.password_file),
    dataDirectory: instance.data_directory,
  }));
}

/** Reads the first line of the file each time it is needed, so that a rotated secret is taken up. */
export function secretReader(file: string): () => Promise<string> {
  return async () => {
    try {
      return ((await readFile(file, 'utf8')).split('\n')[0] ?? '').trim();
    } catch (error) {
      throw new HoldfastError('INVALID_CONFIG', `cannot read the secret in ${file}`, { cause: error });
    }
  };
}

function isPortRange(text: string): boolean {
  const [first = 0, last = 0] = text.split('-').map(Number);
  return first >= 1 && first <= last && last <= 65_535;
}

/** Throws INVALID_CONFIG when the user to run as does not exist. */
export async function restoreSettings(config: AgentConfig): Promise<RestoreSettings | undefined> {
  const { restore } = config;
  if (restore === undefined) return undefined;
  const [first = 0, last = 0] = restore.port_range.split('-').map(Number); // the schema has checked them
  return {
    directory: restore.directory,
    binDirectories: new Map(
      Object.entries(restore.bin_directories).map(([key, value]) => [Number(key), value]),
    ),
    runAs: restore.run_as === undefined ? undefined : await lookUpUser(restore.run_as),
    portRange: { begin: first, end: last + 1 },
    connect: { host: restore.host, user: restore.user, database: restore.database },
  };
}

async function lookUpUser(user: string): Promise<{ readonly uid: number; readonly gid: number }> {
  try {
    const [uid, gid] = await Promise.all(
      ['-u', '-g'].map(async (option) => Number((await run('id', [option, '--', user])).stdout)),
    );
    if (uid !== undefined && gid !== undefined && Number.isInteger(uid) && Number.isInteger(gid))
      return { uid, gid };
  } catch (error) {
    throw new HoldfastError('INVALID_CONFIG', `restore.run_as: no user "${user}" on this machine`, {
      cause: error,
    });
  }
  throw new HoldfastError('INVALID_CONFIG', `restore.run_as: no user "${user}" on this machine`);
}

/** coordinator.yaml: its schema, and what the coordinator makes of it. Every key is documented in docs/configuration.md. */
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { isAbsolute } from 'node:path';
import { z } from 'zod';
import { HoldfastError } from '../foundation/errors.ts';
import { LOG_LEVELS } from '../foundation/log.ts';

const name = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/, 'use letters, digits, "_", "." and "-", at most 63 of them');
const path = z.string().refine(isAbsolute, 'an absolute path is wanted');
const listen = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, 'host:port is wanted')
  .refine((text) => Number(text.slice(text.lastIndexOf(':') + 1)) <= 65_535, 'a port is at most 65535');

const tls = z.strictObject({ certificate_file: path, key_file: path });

export const coordinatorConfigSchema = z
  .strictObject({
    cluster_name: name,
    cluster_id: z.int().min(1),
    state_directory: path,
    sql: z
      .strictObject({
        listen: listen.default('127.0.0.1:2881'),
        users: z
          .array(z.strictObject({ name: z.string().min(1).max(63), password_file: path }))
          .min(1)
          .optional(),
        tls: tls.optional(),
      })
      .prefault({}),
    grpc: z
      .strictObject({
        listen: listen.default('127.0.0.1:2882'),
        agent_token_file: path.optional(),
        tls: tls.extend({ client_ca_file: path.optional() }).optional(),
      })
      .prefault({}),
    catalog: z
      .discriminatedUnion('kind', [
        z.strictObject({ kind: z.literal('pglite') }),
        z.strictObject({ kind: z.literal('postgresql'), url_file: path }),
      ])
      .default({ kind: 'pglite' }),
    encryption: z.strictObject({ key_file: path }).optional(),
    log_level: z.enum(LOG_LEVELS).optional(),
  })
  .refine(
    (config) => config.sql.users !== undefined || [config.sql.listen, config.grpc.listen].every(isLoopback),
    {
      path: ['sql', 'users'],
      message: 'without users the coordinator may listen only on this machine (127.0.0.1, ::1 or localhost)',
    },
  );

export type CoordinatorConfig = z.output<typeof coordinatorConfigSchema>;

/** Who may log in without a password while no users are configured. */
export const LOCAL_USER = 'root';

export type Address = { readonly host: string; readonly port: number };

/** `127.0.0.1:2881`, `[::1]:2881` */
export function parseListen(text: string): Address {
  const at = text.lastIndexOf(':');
  return { host: text.slice(0, at).replace(/^\[(.*)\]$/, '$1'), port: Number(text.slice(at + 1)) };
}

function isLoopback(text: string): boolean {
  const { host } = parseListen(text);
  return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/** The first line of a secret's file. Throws INVALID_CONFIG. */
export async function readSecret(file: string, key: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw new HoldfastError('INVALID_CONFIG', `cannot read ${file} (${key})`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
    });
  }
  const [line = ''] = text.split(/\r?\n/);
  if (line === '') throw new HoldfastError('INVALID_CONFIG', `${file} (${key}) is empty`);
  return line;
}

/** A certificate's or key's file. Throws INVALID_CONFIG. */
export async function readPem(file: string, key: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (error) {
    throw new HoldfastError('INVALID_CONFIG', `cannot read ${file} (${key})`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
    });
  }
}

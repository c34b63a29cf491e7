/** The PostgreSQL 17 that the demo backs up: from npm, in a directory of its own, page checksums on, ready for archiving. */
import { access, appendFile, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  initializeCluster,
  type ServerPaths,
  serverPid,
  startServer,
} from '../../engine/postgres/server-process.ts';
import { HoldfastError } from '../../foundation/errors.ts';
import type { ChildProcesses } from './child-processes.ts';

/** Where the npm package of one major version has `postgres`, `initdb` and `pg_ctl`. */
export function packagedBinDirectory(root: string, major: number): string {
  return join(root, 'node_modules', `postgres-${major}`, 'native', 'bin');
}

export type SourceServer = { readonly paths: ServerPaths; readonly port: number; readonly logPath: string };

/** Makes and starts it. SERVER_PRECHECK_FAILED when npm has no server for this platform. */
export async function startSourceServer(
  options: { readonly binDirectory: string; readonly directory: string; readonly port: number },
  processes: ChildProcesses,
  signal: AbortSignal,
): Promise<SourceServer> {
  await access(join(options.binDirectory, 'postgres')).catch((error: unknown) => {
    throw new HoldfastError('SERVER_PRECHECK_FAILED', `there is no PostgreSQL in ${options.binDirectory}`, {
      cause: error,
      hint: 'The demo takes its server from npm, which has it for Linux on x86-64: run "npm ci" there.',
    });
  });
  await mkdir(options.directory, { recursive: true });
  const paths: ServerPaths = {
    binDirectory: options.binDirectory,
    dataDirectory: join(options.directory, 'data'),
    user: undefined,
  };
  await initializeCluster(paths, ['--data-checksums'], signal);
  await appendFile(
    join(paths.dataDirectory, 'postgresql.conf'),
    `
port = ${options.port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = '128MB'
max_wal_size = '1GB'
wal_level = replica
max_slot_wal_keep_size = '8GB'
log_checkpoints = on
`,
  );
  const logPath = join(options.directory, 'server.log');
  await startServer(paths, { logPath, waitSeconds: 60 }, signal);
  const pid = await serverPid(paths.dataDirectory);
  if (pid !== undefined) await processes.adopt('PostgreSQL of the shop', pid);
  return { paths, port: options.port, logPath };
}

/** Postgres Pro's pg_probackup, where a program of it is named: its DELTA increments, zlib, two threads. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestServer } from '../test/support/postgres.ts';
import { type Measured, runMeasured } from './measured-command.ts';
import type { BackupTool, Cost, RestoreOrder } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

const THREADS = '-j2';

export class PgProBackup implements BackupTool {
  readonly name = 'pg_probackup';
  readonly description: string;
  readonly restoresDelta = true;
  readonly #catalog: string;
  readonly #server: TestServer;
  readonly #program: string;

  private constructor(directory: string, server: TestServer, program: string, version: string) {
    this.#catalog = join(directory, 'pg-probackup');
    this.#server = server;
    this.#program = program;
    this.description = `${version}: --stream, increments DELTA, --compress-algorithm=zlib --compress-level=1, ${THREADS}`;
  }

  static async open(directory: string, server: TestServer, program: string): Promise<PgProBackup> {
    const version = (await runMeasured([program, '--version'])).stdout.trim();
    return new PgProBackup(directory, server, program, version);
  }

  async prepare(): Promise<void> {
    await rm(this.#catalog, { recursive: true, force: true });
    await mkdir(this.#catalog, { recursive: true });
    await runMeasured([this.#program, 'init', '-B', this.#catalog]);
    await this.#run('add-instance', '-D', this.#server.dataDirectory);
  }

  async full(): Promise<Cost> {
    return await this.#backUp('FULL');
  }

  async increment(): Promise<Cost> {
    return await this.#backUp('DELTA');
  }

  async restore({ target, of, delta }: RestoreOrder): Promise<Cost> {
    const { stdout } = await this.#run('show', '--format=json');
    const [shown] = JSON.parse(stdout) as { readonly backups: readonly { readonly id: string }[] }[]; // newest first
    const set = shown?.backups.at(of === 'full' ? -1 : 0)?.id ?? '';
    const mode = delta ? ['--incremental-mode=checksum'] : [];
    return await this.#run('restore', '-D', target, '-i', set, THREADS, ...mode);
  }

  async validate(): Promise<Cost> {
    return await this.#run('validate', THREADS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#catalog, { recursive: true, force: true });
  }

  async #backUp(mode: 'FULL' | 'DELTA'): Promise<Cost> {
    const before = await treeBytes(this.#catalog);
    const connection = [
      '-h',
      '127.0.0.1',
      '-p',
      String(this.#server.port),
      '-U',
      'postgres',
      '-d',
      'postgres',
    ];
    const compression = ['--compress-algorithm=zlib', '--compress-level=1'];
    const measured = await this.#run(
      'backup',
      '-b',
      mode,
      '--stream',
      ...connection,
      ...compression,
      THREADS,
    );
    return { ...measured, storedBytes: (await treeBytes(this.#catalog)) - before };
  }

  async #run(command: string, ...options: readonly string[]): Promise<Measured> {
    return await runMeasured([
      this.#program,
      command,
      '-B',
      this.#catalog,
      '--instance=bench',
      ...(command === 'show' ? [] : ['--log-level-console=error']),
      ...options,
    ]);
  }
}

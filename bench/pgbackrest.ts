/** Debian's pgBackRest: a full backup and a restore, zst level 3, two processes; and the push of a segment of log. */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestServer } from '../test/support/postgres.ts';
import { type Measured, runMeasured } from './measured-command.ts';

export class PgBackRest {
  readonly #directory: string;
  readonly #server: TestServer;
  readonly #socketDirectory: string;

  constructor(directory: string, server: TestServer, socketDirectory: string) {
    this.#directory = join(directory, 'pgbackrest');
    this.#server = server;
    this.#socketDirectory = socketDirectory;
  }

  static async version(): Promise<string> {
    return (await runMeasured(['pgbackrest', 'version'])).stdout.trim();
  }

  get repository(): string {
    return join(this.#directory, 'repository');
  }

  /** A repository with a stanza and nothing else. */
  async prepare(): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
    for (const name of ['repository', 'log', 'lock'])
      await mkdir(join(this.#directory, name), { recursive: true });
    await runMeasured([...this.#base(this.#server.dataDirectory), ...this.#connection(), 'stanza-create']);
  }

  async backUp(): Promise<Measured> {
    return await runMeasured([
      ...this.#base(this.#server.dataDirectory),
      ...this.#connection(),
      '--type=full',
      '--start-fast',
      '--no-archive-check',
      '--compress-type=zst',
      '--compress-level=3',
      '--process-max=2',
      'backup',
    ]);
  }

  /** As archive_command runs it. */
  async pushLog(segment: string): Promise<Measured> {
    const command = ['--compress-type=zst', '--compress-level=3', 'archive-push', segment];
    return await runMeasured([...this.#base(this.#server.dataDirectory), ...command]);
  }

  async restore(target: string): Promise<Measured> {
    await mkdir(target, { recursive: true, mode: 0o700 });
    return await runMeasured([...this.#base(target), '--process-max=2', '--archive-mode=off', 'restore']);
  }

  #base(dataDirectory: string): readonly string[] {
    return [
      'pgbackrest',
      '--no-config',
      '--stanza=bench',
      `--repo1-path=${this.repository}`,
      `--pg1-path=${dataDirectory}`,
      `--log-path=${join(this.#directory, 'log')}`,
      `--lock-path=${join(this.#directory, 'lock')}`,
      '--log-level-console=error',
    ];
  }

  #connection(): readonly string[] {
    return [
      `--pg1-port=${this.#server.port}`,
      `--pg1-socket-path=${this.#socketDirectory}`,
      '--pg1-user=postgres',
    ];
  }
}

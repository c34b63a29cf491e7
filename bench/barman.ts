/**
 * Barman, where it is installed or named: streamed log, backups by pg_basebackup, which are full ones (the server's CPU time
 * is counted with its own); its restore unpacks, in a staging directory first.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { serverPid } from '../engine/postgres/server-process.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { treeCpuSeconds } from './cpu.ts';
import { databaseBytes } from './database.ts';
import { type Measured, runMeasured } from './measured-command.ts';
import type { BackupTool, Cost, RestoreOrder } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

const INSTALLED = '/usr/bin/barman';
const SLOT = 'barman';
const ATTEMPTS = 10;
const RETRY_MS = 1000;

export class Barman implements BackupTool {
  readonly name = 'Barman';
  readonly description: string;
  readonly #directory: string;
  readonly #server: TestServer;
  readonly #program: string;
  readonly #baseBackup: string;
  #receiver: ChildProcess | undefined;

  private constructor(
    directory: string,
    server: TestServer,
    program: string,
    found: { readonly version: string; readonly baseBackup: string },
  ) {
    this.#directory = join(directory, 'barman');
    this.#server = server;
    this.#program = program;
    this.#baseBackup = found.baseBackup;
    this.description = `Barman ${found.version}: backup_method=postgres, backup_compression=zstd, level 3, location=client`;
  }

  /**
   * Undefined when none is named, and none is installed or the one that is does not work. `baseBackup`: the pg_basebackup
   * that it is to use.
   */
  static async open(
    directory: string,
    server: TestServer,
    program: string | undefined,
    baseBackup: string,
  ): Promise<Barman | undefined> {
    if (program === undefined && !(await isThere(INSTALLED))) return undefined;
    const found = program ?? INSTALLED;
    const version = (await runMeasured([found, '--version'])).stdout.split(' ')[0] ?? '';
    const barman = new Barman(directory, server, found, { version, baseBackup });
    if (program !== undefined) return barman;
    try {
      await barman.prepare();
      return barman;
    } catch (error) {
      console.error(`${INSTALLED} does not work here: ${String(error)}`);
      await barman[Symbol.asyncDispose]();
      return undefined;
    }
  }

  async prepare(): Promise<void> {
    await this[Symbol.asyncDispose]();
    await mkdir(this.#directory, { recursive: true });
    const connection = `host=127.0.0.1 port=${this.#server.port} user=postgres dbname=postgres`;
    await writeFile(
      join(this.#directory, 'barman.conf'),
      `[barman]
barman_user = ${process.env['USER'] ?? 'root'}
barman_home = ${this.#directory}
log_file = ${join(this.#directory, 'barman.log')}
[bench]
description = bench
conninfo = ${connection}
streaming_conninfo = ${connection}
path_prefix = ${dirname(this.#baseBackup)}
backup_method = postgres
backup_compression = zstd
backup_compression_level = 3
backup_compression_location = client
streaming_archiver = on
slot_name = ${SLOT}
immediate_checkpoint = true
recovery_staging_path = ${join(this.#directory, 'staging')}
`,
    );
    await this.#run('receive-wal', '--create-slot', 'bench');
    const [program = '', ...rest] = this.#command('receive-wal', 'bench');
    this.#receiver = spawn(program, rest, { stdio: 'ignore' });
    await this.#untilChecked();
  }

  async full(): Promise<Cost> {
    const before = await treeBytes(this.#base);
    const server = (await serverPid(this.#server.dataDirectory)) ?? 0;
    const cpuBefore = treeCpuSeconds(server);
    const measured = await this.#run('backup', 'bench');
    return {
      ...measured,
      cpuSeconds: measured.cpuSeconds + treeCpuSeconds(server) - cpuBefore,
      readBytes: await databaseBytes(this.#server),
      storedBytes: (await treeBytes(this.#base)) - before,
    };
  }

  async restore({ target, of }: RestoreOrder): Promise<Cost> {
    await mkdir(join(this.#directory, 'staging'), { recursive: true });
    await this.#run('switch-wal', '--force', '--archive', 'bench'); // the log of the backup, which it insists on
    return await this.#run('recover', 'bench', of === 'full' ? 'oldest' : 'latest', target);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const receiver = this.#receiver;
    this.#receiver = undefined;
    if (receiver !== undefined && receiver.exitCode === null) {
      const exited = once(receiver, 'exit');
      receiver.kill('SIGTERM');
      await exited;
      await this.#dropSlot();
    }
    await rm(this.#directory, { recursive: true, force: true });
  }

  get #base(): string {
    return join(this.#directory, 'bench', 'base');
  }

  /** It takes no backup before a first segment is archived. */
  async #untilChecked(): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#run('switch-wal', '--force', '--archive', 'bench');
        await this.#run('check', 'bench');
        return;
      } catch (error) {
        if (attempt === ATTEMPTS) throw error;
        await wait(RETRY_MS);
      }
    }
  }

  async #dropSlot(): Promise<void> {
    const drop = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '${SLOT}'`;
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#server.query(drop);
        return;
      } catch (error) {
        if (attempt === ATTEMPTS) throw error; // the server has not yet noticed that it went
        await wait(RETRY_MS);
      }
    }
  }

  async #run(...args: readonly string[]): Promise<Measured> {
    return await runMeasured(this.#command(...args));
  }

  #command(...args: readonly string[]): readonly string[] {
    return [this.#program, '-c', join(this.#directory, 'barman.conf'), ...args];
  }
}

async function isThere(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

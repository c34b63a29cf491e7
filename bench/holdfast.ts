/** Holdfast's side of the comparison: the agent's backup and restore functions, each in a process of its own. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { toLsn } from '../foundation/lsn.ts';
import { archiveLog } from '../test/support/hand-archive.ts';
import type { TestServer } from '../test/support/postgres.ts';
import type { ChildOrder } from './holdfast-process.ts';
import { type Measured, runMeasured } from './measured-command.ts';

export class Holdfast {
  readonly destination: string;
  readonly #server: TestServer;
  readonly #compression: string;
  readonly #cacheDirectory: string;
  #startLsn = toLsn(0n);

  constructor(directory: string, server: TestServer, compression: string) {
    this.destination = join(directory, `holdfast-${compression.replace(':', '-')}`);
    this.#server = server;
    this.#compression = compression;
    this.#cacheDirectory = join(directory, 'compile-cache');
  }

  async prepare(): Promise<void> {
    await rm(this.destination, { recursive: true, force: true });
  }

  async backUp(): Promise<Measured> {
    const order: ChildOrder = {
      kind: 'backup',
      port: this.#server.port,
      destination: this.destination,
      compression: this.#compression,
    };
    const measured = await run(order, this.#cacheDirectory);
    const { startLsn } = JSON.parse(measured.stdout) as { startLsn: string }; // holdfast-process.ts prints it
    this.#startLsn = toLsn(BigInt(startLsn));
    return measured;
  }

  /** A restore wants the log of the backup; it is not part of what is measured. */
  async archive(): Promise<void> {
    await archiveLog(this.#server, this.destination, this.#startLsn);
  }

  async restore(target: string): Promise<Measured> {
    return await run({ kind: 'restore', destination: this.destination, target }, this.#cacheDirectory);
  }
}

async function run(order: ChildOrder, cacheDirectory: string): Promise<Measured> {
  const program = join(import.meta.dirname, 'holdfast-process.ts');
  return await runMeasured([process.execPath, program, JSON.stringify(order)], {
    NODE_NO_WARNINGS: '1',
    NODE_COMPILE_CACHE: cacheDirectory, // as an agent has it
  });
}

/** The `zstd` command over the database's files, one frame each, at a level: what compressing alone takes. */
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestServer } from '../test/support/postgres.ts';
import { runMeasured } from './measured-command.ts';
import type { Cost } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

export class ZstdCommand {
  readonly #directory: string;
  readonly #server: TestServer;

  constructor(directory: string, server: TestServer) {
    this.#directory = join(directory, 'zstd');
    this.#server = server;
  }

  static async version(): Promise<string> {
    return /v[\d.]+/.exec((await runMeasured(['zstd', '--version'])).stdout)?.[0] ?? '';
  }

  async compress(level: number): Promise<Cost> {
    await mkdir(this.#directory, { recursive: true });
    const files: string[] = [];
    for (const name of ['base', 'global']) {
      const top = join(this.#server.dataDirectory, name);
      const entries = await readdir(top, { recursive: true, withFileTypes: true });
      files.push(
        ...entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name)),
      );
    }
    const list = join(this.#directory, 'list');
    await writeFile(list, files.join('\n'));
    const out = join(this.#directory, 'out.zst');
    const measured = await runMeasured(['zstd', '-q', '-f', `-${level}`, '--filelist', list, '-o', out]);
    await rm(list);
    const storedBytes = await treeBytes(this.#directory);
    await rm(this.#directory, { recursive: true, force: true });
    return { ...measured, storedBytes };
  }
}

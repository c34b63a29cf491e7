/**
 * pgBackRest, Debian's unless told: zst level 3, two processes, files bundled, block increments where the version has them;
 * and the push of a segment of log.
 */
import { execFile } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { parseSegmentName, segmentName, toTimeline } from '../foundation/lsn.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { type Measured, runMeasured } from './measured-command.ts';
import type { BackupTool, Cost, RestoreOrder } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

const DEBIAN = 'pgbackrest';
const COMPRESSION = ['--compress-type=zst', '--compress-level=3'];
const BETA = '--beta';
const SEGMENT_BYTES = 16 * 2 ** 20;

/** Of `info --output=json`. */
type Info = readonly {
  readonly backup: readonly {
    readonly label: string;
    readonly archive: { readonly start: string; readonly stop: string };
    readonly info: { readonly delta: number };
  }[];
}[];

type Found = {
  readonly program: string;
  readonly version: string;
  /** The options that turn block increments on; none where the version has none. */
  readonly blocks: readonly string[];
  /** What to say when there are none. */
  readonly withoutBlocks: string;
};

export type PgBackRestOptions = {
  /** Its path; Debian's when undefined. */
  readonly program?: string | undefined;
  /** Block increments, where the version has them: what changes costs what changed, not whole files. */
  readonly wantsBlocks?: boolean;
};

export class PgBackRest implements BackupTool {
  readonly name = 'pgBackRest';
  readonly description: string;
  readonly restoresDelta = true;
  readonly #directory: string;
  readonly #server: TestServer;
  readonly #socketDirectory: string;
  readonly #found: Found;

  private constructor(directory: string, server: TestServer, socketDirectory: string, found: Found) {
    this.#directory = join(directory, 'pgbackrest');
    this.#server = server;
    this.#socketDirectory = socketDirectory;
    this.#found = found;
    this.description =
      `${found.version}: compress-type=zst, compress-level=3, process-max=2, archive-check=n, repo-bundle=y, ` +
      (found.blocks.length > 0
        ? `repo-block=y${found.blocks.includes(BETA) ? ' (beta in this version)' : ''}`
        : found.withoutBlocks);
  }

  static async open(
    directory: string,
    server: TestServer,
    socketDirectory: string,
    { program = DEBIAN, wantsBlocks = true }: PgBackRestOptions = {},
  ): Promise<PgBackRest> {
    const version = await PgBackRest.version(program);
    const { stdout } = await runMeasured([program, 'help', 'backup']);
    const knowsBlocks = /^\s*--repo-block\s/m.test(stdout);
    const help = knowsBlocks ? (await runMeasured([program, 'help', 'backup', 'repo-block'])).stdout : '';
    const known = knowsBlocks ? [...(help.includes('BETA') ? [BETA] : []), '--repo1-block'] : [];
    return new PgBackRest(directory, server, socketDirectory, {
      program,
      version,
      blocks: wantsBlocks ? known : [],
      withoutBlocks: knowsBlocks ? 'repo-block=n' : 'without repo-block, which this version does not know',
    });
  }

  static async version(program = DEBIAN): Promise<string> {
    return (await runMeasured([program, 'version'])).stdout.trim();
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

  /** The log of the backup stands in the repository then, for `verify`; its push is not part of the work. */
  async full(): Promise<Cost> {
    const cost = await this.#backUp('full');
    const { archive } = (await this.#backups()).at(-1) ?? {};
    if (archive === undefined) throw new Error('pgBackRest has no backup');
    const begin = parseSegmentName(archive.start, SEGMENT_BYTES)?.begin ?? 0n;
    const last = parseSegmentName(archive.stop, SEGMENT_BYTES)?.begin ?? 0n;
    for (let at: bigint = begin; at <= last; at += BigInt(SEGMENT_BYTES)) {
      const name = segmentName(toTimeline(1), at, SEGMENT_BYTES);
      await this.pushLog(join(this.#server.dataDirectory, 'pg_wal', name));
    }
    return cost;
  }

  async increment(): Promise<Cost> {
    return await this.#backUp('incr');
  }

  async #backUp(type: 'full' | 'incr'): Promise<Cost> {
    const place = join(this.repository, 'backup');
    const before = await treeBytes(place);
    const measured = await runMeasured([
      ...this.#base(this.#server.dataDirectory),
      ...this.#connection(),
      `--type=${type}`,
      '--start-fast',
      '--no-archive-check',
      ...COMPRESSION,
      '--process-max=2',
      '--repo1-bundle',
      ...this.#found.blocks,
      'backup',
    ]);
    const readBytes = (await this.#backups()).at(-1)?.info.delta;
    return { ...measured, readBytes, storedBytes: (await treeBytes(place)) - before };
  }

  /** As archive_command runs it. */
  async pushLog(segment: string): Promise<Measured> {
    const command = [...COMPRESSION, 'archive-push', segment];
    return await runMeasured([...this.#base(this.#server.dataDirectory), ...command]);
  }

  async restore({ target, of, delta }: RestoreOrder): Promise<Cost> {
    await mkdir(target, { recursive: true, mode: 0o700 });
    const label = (await this.#backups()).at(of === 'full' ? 0 : -1)?.label;
    const options = [`--set=${label}`, '--process-max=2', '--archive-mode=off'];
    return await runMeasured([
      ...this.#base(target),
      ...options,
      ...(delta ? ['--delta'] : []),
      '--type=immediate',
      'restore',
    ]);
  }

  /**
   * `verify` of a version whose block increments are beta takes their files for missing and reads nothing of them: there it
   * is measured over a full backup made without them.
   */
  async validate(): Promise<Cost> {
    if (!this.#found.blocks.includes(BETA)) return await this.#verify();
    const found = { ...this.#found, blocks: [] };
    await using plain = new PgBackRest(this.#directory, this.#server, this.#socketDirectory, found);
    await plain.prepare();
    await plain.full();
    await promisify(execFile)('sync');
    return await plain.#verify();
  }

  /** Throws when it finds something: its exit code does not tell. */
  async #verify(): Promise<Cost> {
    const command = [...this.#base(undefined), '--process-max=2', '--output=text', 'verify'];
    const measured = await runMeasured(command);
    if (/status: (error|invalid)/.test(measured.stdout)) throw new Error(measured.stdout);
    return measured;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #backups(): Promise<Info[number]['backup']> {
    const { stdout } = await runMeasured([...this.#base(undefined), '--output=json', 'info']);
    return (JSON.parse(stdout) as Info)[0]?.backup ?? []; // as its manual describes it
  }

  /** Without a data directory: of a command that only looks at the repository. */
  #base(dataDirectory: string | undefined): readonly string[] {
    return [
      this.#found.program,
      '--no-config',
      '--stanza=bench',
      `--repo1-path=${this.repository}`,
      `--log-path=${join(this.#directory, 'log')}`,
      ...(dataDirectory === undefined
        ? []
        : [`--pg1-path=${dataDirectory}`, `--lock-path=${join(this.#directory, 'lock')}`]),
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

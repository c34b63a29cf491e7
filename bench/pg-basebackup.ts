/**
 * PostgreSQL's pg_basebackup: compressed tar files, and increments where both it and the server are of 17 or later. It copies
 * through the server, whose CPU time is counted with its own. Its restore is the unpacking of the tar files, of an increment
 * with pg_combinebackup, and a sync.
 */
import { access, mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { serverPid } from '../engine/postgres/server-process.ts';
import type { TestServer } from '../test/support/postgres.ts';
import { treeCpuSeconds } from './cpu.ts';
import { databaseBytes } from './database.ts';
import { runMeasured } from './measured-command.ts';
import type { BackupTool, Cost, RestoreOrder } from './tool.ts';
import { treeBytes } from './tree-bytes.ts';

const PLACES = [18, 17, 16, 15].map((major) => `/usr/lib/postgresql/${major}/bin/pg_basebackup`);
const FIRST_WITH_CLIENT_ZSTD = 15;
const FIRST_WITH_INCREMENTS = 17;

/** `$1` a list of directories with tar files, oldest first, a line each; `$2` the target; `$3` pg_combinebackup, `$4` room. */
const RESTORE = `set -e
mapfile -t sets < "$1"
unpack() { mkdir -p "$2"; for file in "$1"/base.tar*; do tar -xaf "$file" -C "$2"; done; cp "$1/backup_manifest" "$2"; }
if [ "\${#sets[@]}" = 1 ]; then unpack "\${sets[0]}" "$2"; else
  parts=()
  for at in "\${!sets[@]}"; do unpack "\${sets[$at]}" "$4/$at"; parts+=("$4/$at"); done
  "$3" -o "$2" "\${parts[@]}"
fi
sync -f "$2"`;

export class PgBaseBackup implements BackupTool {
  readonly name = 'pg_basebackup';
  readonly description: string;
  readonly increment?: () => Promise<Cost>;
  readonly #directory: string;
  readonly #server: TestServer;
  readonly program: string;
  readonly #compression: string;
  #count = 0;

  private constructor(directory: string, server: TestServer, program: string, version: number, text: string) {
    this.#directory = join(directory, 'pg-basebackup');
    this.#server = server;
    this.program = program;
    this.#compression = version >= FIRST_WITH_CLIENT_ZSTD ? '--compress=client-zstd:3' : '--compress=3';
    const hasIncrements = Math.min(version, server.major) >= FIRST_WITH_INCREMENTS;
    if (hasIncrements) this.increment = async () => await this.#backUp(true);
    const missing = hasIncrements ? '' : ', no increments before 17';
    this.description = `${text}: --format=tar ${this.#compression} --checkpoint=fast --wal-method=none${missing}`;
  }

  /** `program`: else Debian's newest. Undefined when there is none, or it cannot speak with the server. */
  static async open(
    directory: string,
    server: TestServer,
    program: string | undefined,
  ): Promise<PgBaseBackup | undefined> {
    const found = program ?? (await firstThere(PLACES));
    if (found === undefined) return undefined;
    const text = (await runMeasured([found, '--version'])).stdout.trim();
    const version = Number(/(\d+)/.exec(text)?.[1] ?? 0);
    return version < server.major ? undefined : new PgBaseBackup(directory, server, found, version, text);
  }

  async prepare(): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
    await mkdir(this.#directory, { recursive: true });
    this.#count = 0;
  }

  async full(): Promise<Cost> {
    return await this.#backUp(false);
  }

  async restore({ target, of }: RestoreOrder): Promise<Cost> {
    const sets = (await readdir(this.#directory)).filter((name) => name.startsWith('set-')).sort();
    const wanted = of === 'full' ? sets.slice(0, 1) : sets;
    const list = join(this.#directory, 'wanted');
    await writeFile(list, wanted.map((name) => join(this.#directory, name)).join('\n'));
    const room = join(this.#directory, 'unpacked');
    const combine = join(dirname(this.program), 'pg_combinebackup');
    const measured = await runMeasured(['bash', '-c', RESTORE, 'bash', list, target, combine, room]);
    await rm(room, { recursive: true, force: true });
    return measured;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }

  async #backUp(isIncrement: boolean): Promise<Cost> {
    const place = (count: number) => join(this.#directory, `set-${String(count).padStart(3, '0')}`);
    const target = place(this.#count);
    const base = isIncrement ? [`--incremental=${join(place(this.#count - 1), 'backup_manifest')}`] : [];
    this.#count += 1;
    const server = (await serverPid(this.#server.dataDirectory)) ?? 0;
    const before = treeCpuSeconds(server);
    const connection = [
      '-h',
      '127.0.0.1',
      '-p',
      String(this.#server.port),
      '-U',
      'postgres',
      '--no-password',
    ];
    const format = ['--format=tar', this.#compression, '--checkpoint=fast', '--wal-method=none'];
    const measured = await runMeasured([this.program, ...connection, ...format, ...base, '-D', target]);
    return {
      ...measured,
      cpuSeconds: measured.cpuSeconds + treeCpuSeconds(server) - before,
      readBytes: isIncrement ? undefined : await databaseBytes(this.#server),
      storedBytes: await treeBytes(target),
    };
  }
}

async function firstThere(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) {
    const isThere = await access(path).then(
      () => true,
      () => false,
    );
    if (isThere) return path;
  }
  return undefined;
}

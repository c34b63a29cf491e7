/**
 * A query process seen from the coordinator: started, asked one thing at a time, killed. It may read the program's own
 * files and nothing else: Node's permission model denies it writing, other programs and addons.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { HoldfastError } from '../../../foundation/errors.ts';
import type { ViewDefinition } from '../reader.ts';
import { type Frame, splitFrames } from '../wire/frames.ts';
import type { QueryProcessReply, QueryProcessRequest } from './query-process-messages.ts';

const MAIN = join(import.meta.dirname, 'query-process-main.ts');
const START_TIMEOUT_MS = 60_000;
/** Resident memory at which a busy query process is ended. An idle one has about 400 MB. */
const MAX_RESIDENT_BYTES = 1536 * 1024 * 1024;
const WATCH_MEMORY_MS = 500;
const PAGE_BYTES = 4096;

/** Builds the snapshot that query processes start from; takes about three seconds. */
export async function buildQuerySnapshot(
  path: string,
  views: readonly ViewDefinition[],
  signal: AbortSignal,
): Promise<void> {
  const child = forkMain(
    ['build', path, JSON.stringify(views)],
    [`--allow-fs-write=${dirname(path)}/*`],
    path,
  );
  const exited = Promise.withResolvers<number | null>();
  const errors = collectErrors(child);
  const stop = () => child.kill('SIGKILL');
  child.once('exit', exited.resolve);
  signal.addEventListener('abort', stop, { once: true });
  const timer = setTimeout(stop, START_TIMEOUT_MS);
  try {
    signal.throwIfAborted();
    const code = await exited.promise;
    signal.throwIfAborted();
    if (code !== 0)
      throw new HoldfastError('INTERNAL', 'the query process could not be prepared', { detail: errors() });
  } finally {
    stop();
    clearTimeout(timer);
    signal.removeEventListener('abort', stop);
  }
}

export class QueryProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #dead: HoldfastError | undefined;
  #waiting: PromiseWithResolvers<QueryProcessReply> | undefined;
  serverVersion = '';
  /** The change counter of each view that was loaded. */
  readonly loaded = new Map<string, number>();

  /** Resolves when the process can answer. Throws INTERNAL when it does not start. */
  static async start(snapshot: string): Promise<QueryProcess> {
    const process = new QueryProcess(forkMain(['serve', snapshot], [], snapshot));
    const timer = setTimeout(
      () => process.kill(new HoldfastError('INTERNAL', 'the query process did not start')),
      START_TIMEOUT_MS,
    );
    try {
      const ready = await process.#nextReply();
      if (ready.kind === 'ready') process.serverVersion = ready.serverVersion;
      return process;
    } finally {
      clearTimeout(timer);
    }
  }

  private constructor(child: ChildProcess) {
    this.#child = child;
    const errors = collectErrors(child);
    const exited = Promise.withResolvers<void>();
    this.#exited = exited.promise;
    child.on('message', (reply: QueryProcessReply) => this.#receive(reply));
    child.on('error', (cause) =>
      this.#end(new HoldfastError('INTERNAL', 'the query process failed', { cause })),
    );
    child.once('exit', (code, killedBy) => {
      const detail = `exit code ${code ?? '-'}, signal ${killedBy ?? '-'} ${errors()}`.trim();
      this.#end(new HoldfastError('SERVER_UNREACHABLE', 'the query process ended', { detail }));
      exited.resolve();
    });
  }

  get processId(): number | undefined {
    return this.#child.pid;
  }

  get alive(): boolean {
    return this.#dead === undefined;
  }

  /** Ends the process at once; what waits for it gets `reason`. */
  kill(reason: HoldfastError): void {
    this.#end(reason);
    this.#child.kill('SIGKILL');
  }

  async load(
    views: readonly { readonly name: string; readonly rows: string }[],
    signal: AbortSignal,
  ): Promise<void> {
    await this.#request({ kind: 'load', views }, signal);
  }

  async exchange(message: Buffer, signal: AbortSignal): Promise<readonly Frame[]> {
    const reply = await this.#request({ kind: 'exchange', message }, signal);
    const frames = reply.kind === 'answer' ? splitFrames(Buffer.from(reply.frames)) : [];
    if (frames.length > 0) return frames;
    const failure = new HoldfastError('SERVER_UNREACHABLE', 'the query process crashed on this statement');
    this.kill(failure);
    throw failure;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill(new HoldfastError('SHUTTING_DOWN', 'the query process was stopped'));
    await this.#exited;
  }

  /** Throws what `signal` aborts with, after killing the process: PGlite cannot be interrupted. */
  async #request(request: QueryProcessRequest, signal: AbortSignal): Promise<QueryProcessReply> {
    signal.throwIfAborted();
    const abort = () =>
      this.kill(
        signal.reason instanceof HoldfastError ? signal.reason : new HoldfastError('CANCELLED', 'cancelled'),
      );
    signal.addEventListener('abort', abort, { once: true });
    const watch = setInterval(() => void this.#watchMemory(), WATCH_MEMORY_MS);
    try {
      if (this.#dead !== undefined) throw this.#dead;
      const reply = this.#nextReply();
      this.#child.send(request, (cause) => {
        if (cause !== null)
          this.kill(new HoldfastError('SERVER_UNREACHABLE', 'the query process is gone', { cause }));
      });
      return await reply;
    } finally {
      clearInterval(watch);
      signal.removeEventListener('abort', abort);
    }
  }

  async #watchMemory(): Promise<void> {
    const text = await readFile(`/proc/${this.#child.pid}/statm`, 'utf8').catch(() => ''); // gone, or not Linux
    const residentBytes = Number(text.split(' ')[1] ?? 0) * PAGE_BYTES;
    if (residentBytes <= MAX_RESIDENT_BYTES) return;
    this.kill(
      new HoldfastError('TOO_MANY_SESSIONS', 'canceling statement: its query process used too much memory', {
        detail: `A query process may use ${MAX_RESIDENT_BYTES} bytes.`,
        hint: 'Select fewer rows at once, or aggregate them.',
      }),
    );
  }

  async #nextReply(): Promise<QueryProcessReply> {
    if (this.#dead !== undefined) throw this.#dead;
    this.#waiting = Promise.withResolvers<QueryProcessReply>();
    return await this.#waiting.promise;
  }

  #receive(reply: QueryProcessReply): void {
    if (reply.kind === 'failed') {
      this.kill(new HoldfastError('SERVER_UNREACHABLE', `the query process failed: ${reply.message}`));
      return;
    }
    this.#waiting?.resolve(reply);
    this.#waiting = undefined;
  }

  #end(reason: HoldfastError): void {
    this.#dead ??= reason;
    this.#waiting?.reject(this.#dead);
    this.#waiting = undefined;
  }
}

function forkMain(args: readonly string[], permissions: readonly string[], snapshot: string): ChildProcess {
  const root = join(import.meta.dirname, '..', '..', '..');
  return fork(MAIN, [...args], {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: {},
    execArgv: [
      '--permission',
      '--allow-worker',
      `--allow-fs-read=${root}/*`,
      `--allow-fs-read=${dirname(snapshot)}/*`,
      ...permissions,
      '--max-old-space-size=256',
      // The process lives for one session: optimizing PGlite would take longer than what is asked of it.
      '--liftoff-only',
      '--disable-warning=SecurityWarning',
      '--disable-warning=ExperimentalWarning',
    ],
  });
}

const MAX_ERROR_CHARACTERS = 2000;

/** The end of what the process wrote to standard error. */
function collectErrors(child: ChildProcess): () => string {
  let text = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
    text = (text + chunk).slice(-MAX_ERROR_CHARACTERS);
  });
  return () => text.trim();
}

/**
 * Runs a program and says what it cost: wall time, CPU time with all descendants that were waited for (the shell's own
 * `times`), and the highest resident memory of the whole process tree, sampled from /proc.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

export type Measured = {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakRssBytes: number;
  readonly stdout: string;
};

const SAMPLE_INTERVAL_MS = 20;
/** Runs "$@" and then writes bash's `times` (two lines: the shell, its children) behind a mark. */
const TIMED = '"$@"; code=$?; echo "@times" >&2; times >&2; exit $code';

/** `onLine` gets each line of its output at once. Throws with the program's output when it fails. */
export async function runMeasured(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
  onLine: (line: string) => void = () => undefined,
): Promise<Measured> {
  const begin = performance.now();
  const child = spawn('bash', ['-c', TIMED, 'bash', ...command], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...env },
  });
  let stdout = '';
  let stderr = '';
  let told = 0;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    for (let end = stdout.indexOf('\n', told); end >= 0; end = stdout.indexOf('\n', told)) {
      onLine(stdout.slice(told, end));
      told = end + 1;
    }
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  let peakRssBytes = 0;
  const timer = setInterval(() => {
    peakRssBytes = Math.max(peakRssBytes, treeRssBytes(child.pid ?? 0));
  }, SAMPLE_INTERVAL_MS);
  const { promise, resolve, reject } = Promise.withResolvers<number | null>();
  child.once('error', reject);
  child.once('close', resolve);
  const code = await promise.finally(() => clearInterval(timer));
  const seconds = (performance.now() - begin) / 1000;
  if (code !== 0) throw new Error(`${command.join(' ')} failed (${code}):\n${stdout}${stderr}`);
  return { seconds, cpuSeconds: parseTimes(stderr), peakRssBytes, stdout };
}

/** Seconds of the last line of `times`: "0m1.234s 0m0.567s", user and system time of the children. */
function parseTimes(stderr: string): number {
  const line = stderr.slice(stderr.lastIndexOf('@times')).trim().split('\n').at(-1) ?? '';
  return [...line.matchAll(/(\d+)m([\d.]+)s/g)].reduce(
    (sum, [, minutes, seconds]) => sum + Number(minutes) * 60 + Number(seconds),
    0,
  );
}

function treeRssBytes(root: number): number {
  const children = new Map<number, number[]>();
  const rss = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const found = readProcess(Number(name));
    if (found === undefined) continue;
    rss.set(found.pid, found.rssBytes);
    children.set(found.parent, [...(children.get(found.parent) ?? []), found.pid]);
  }
  let total = 0;
  for (const pending = [root]; pending.length > 0; ) {
    const pid = pending.pop() ?? 0;
    total += rss.get(pid) ?? 0;
    pending.push(...(children.get(pid) ?? []));
  }
  return total;
}

/** Undefined when the process has ended meanwhile. */
function readProcess(pid: number): { pid: number; parent: number; rssBytes: number } | undefined {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const parent = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1] ?? 0);
    return { pid, parent, rssBytes: Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024 };
  } catch {
    return undefined;
  }
}

/** CPU time of processes that go on, from /proc. */
import { readdirSync, readFileSync } from 'node:fs';

const TICKS_PER_SECOND = 100; // USER_HZ of every Linux
const PARENT = 1;
const USER_TIME = 11;

/** Of a process, its descendants that live, and those that they have waited for: user and system time. */
export function treeCpuSeconds(root: number): number {
  const children = new Map<number, number[]>();
  const seconds = new Map<number, number>();
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const fields = statOf(name);
    if (fields === undefined) continue;
    const parent = fields[PARENT] ?? 0;
    children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    const ticks = fields.slice(USER_TIME, USER_TIME + 4).reduce((sum, each) => sum + each, 0);
    seconds.set(Number(name), ticks / TICKS_PER_SECOND);
  }
  let total = 0;
  for (const pending = [root]; pending.length > 0; ) {
    const pid = pending.pop() ?? 0;
    total += seconds.get(pid) ?? 0;
    pending.push(...(children.get(pid) ?? []));
  }
  return total;
}

/** The fields behind the name of the program, which may hold anything; undefined: the process has ended meanwhile. */
function statOf(pid: string): readonly number[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
  } catch {
    return undefined;
  }
}

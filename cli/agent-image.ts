/**
 * An agent's memory settings. Node and glibc read theirs when a process begins, so the agent replaces its own image once
 * (execve: same process id, same arguments) as soon as it knows its state directory:
 *
 *   --max-semi-space-size=2   data moves through short-lived buffers; a small young generation frees them sooner
 *   NODE_COMPILE_CACHE        stripped and compiled modules, kept in the state directory, for all threads: without it each
 *                             worker thread loads TypeScript's parser, 10 to 20 MB
 *   MALLOC_ARENA_MAX          threads share heaps instead of keeping one each
 *   MALLOC_MMAP_THRESHOLD_    a freed buffer of that size or more goes back to the system at once
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';

/** Of an agent's process. */
export const AGENT_NODE_OPTIONS = [
  '--disable-warning=ExperimentalWarning',
  '--max-semi-space-size=2',
] as const;
const MALLOC_ENVIRONMENT = { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '262144' } as const;
/** Set in the new image: tells it apart from the first. */
const MARK = 'HOLDFAST_AGENT_IMAGE';

/** Does not return the first time. Servers that the agent starts do not inherit the settings. */
export function becomeAgentImage(stateDirectory: string): void {
  if (process.env[MARK] === String(process.pid)) {
    for (const name of [MARK, ...Object.keys(MALLOC_ENVIRONMENT)]) delete process.env[name];
    return;
  }
  const cacheDirectory = process.env['NODE_COMPILE_CACHE'] ?? join(stateDirectory, 'compile-cache');
  try {
    mkdirSync(stateDirectory, { recursive: true, mode: 0o700 });
  } catch {
    return; // the agent will say what is wrong with its state directory
  }
  const options = AGENT_NODE_OPTIONS.filter((option) => !process.execArgv.includes(option));
  process.execve?.(
    process.execPath,
    [process.execPath, ...process.execArgv, ...options, ...process.argv.slice(1)],
    {
      ...process.env,
      ...MALLOC_ENVIRONMENT,
      NODE_COMPILE_CACHE: cacheDirectory,
      [MARK]: String(process.pid),
    },
  );
}

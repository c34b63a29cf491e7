/**
 * PostgreSQL refuses to run as root, so the demo does too: as root it runs itself again as nobody, everything below it
 * included. Where nobody may not reach the checkout (below /root, say) the process keeps the one right to read past
 * directory modes, as an ambient capability that its children inherit; nothing else of root remains.
 */
import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { HoldfastError } from '../../foundation/errors.ts';

const run = promisify(execFile);
/** `nobody` on every Linux distribution we know of. */
const NOBODY = 65_534;

export const UNPRIVILEGED = { uid: NOBODY, gid: NOBODY };

type Wrapper = {
  /** What stands before the program. */
  readonly prefix: readonly string[];
  readonly identity: { readonly uid?: number; readonly gid?: number };
};

export function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/**
 * Runs this same program with other arguments as nobody, its output ours, and resolves with its exit code. Signals that
 * we get are passed on. Throws SERVER_PRECHECK_FAILED when there is no way to.
 */
export async function runUnprivileged(program: string, args: readonly string[]): Promise<number> {
  const wrapper = await findWrapper(program);
  const { command, rest } = commandLine(wrapper, program, args);
  const child = spawn(command, rest, {
    ...wrapper.identity,
    stdio: 'inherit',
    env: { ...process.env, HOME: '/' },
  });
  const passOn = (signal: NodeJS.Signals) => child.kill(signal);
  process.on('SIGTERM', passOn).on('SIGINT', passOn);
  const ended = Promise.withResolvers<number>();
  child.once('error', ended.reject);
  child.once('exit', (code) => ended.resolve(code ?? 1));
  try {
    return await ended.promise;
  } finally {
    process.off('SIGTERM', passOn).off('SIGINT', passOn);
  }
}

function commandLine(wrapper: Wrapper, program: string, args: readonly string[]) {
  const [command = process.execPath, ...rest] = wrapper.prefix;
  const node = wrapper.prefix.length === 0 ? [] : [process.execPath];
  return { command, rest: [...rest, ...node, ...process.execArgv, program, ...args] };
}

/** The first way in which nobody can run the program at all. */
async function findWrapper(program: string): Promise<Wrapper> {
  const reasons: string[] = [];
  for (const wrapper of WRAPPERS) {
    const { command, rest } = commandLine(wrapper, program, ['version']);
    try {
      await run(command, rest, { ...wrapper.identity, cwd: '/', env: { ...process.env, HOME: '/' } });
      return wrapper;
    } catch (error) {
      reasons.push(`${command}: ${(error as Error).message.split('\n')[0]}`); // execFile rejects with an Error
    }
  }
  throw new HoldfastError(
    'SERVER_PRECHECK_FAILED',
    'PostgreSQL does not run as root, and nobody cannot run it here',
    {
      detail: reasons.join('\n'),
      hint: 'Run the demo as an ordinary user, or move the checkout to where every user may enter, such as /srv.',
    },
  );
}

const WRAPPERS: readonly Wrapper[] = [
  { prefix: [], identity: UNPRIVILEGED },
  { prefix: withCapability('dac_read_search'), identity: {} },
  { prefix: withCapability('dac_override'), identity: {} },
];

function withCapability(name: string): readonly string[] {
  return [
    'setpriv',
    `--reuid=${NOBODY}`,
    `--regid=${NOBODY}`,
    '--clear-groups',
    // access(2) would ignore the capability otherwise, and PostgreSQL looks for its own programs by it.
    '--securebits=+no_setuid_fixup',
    `--inh-caps=+${name}`,
    `--ambient-caps=+${name}`,
    '--',
  ];
}

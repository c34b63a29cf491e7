/** `holdfast restore`: from the destination alone, without coordinator, agent or catalog. */
import { resolve } from 'node:path';
import { type Command, InvalidArgumentError } from 'commander';
import { anyFreePort } from '../agent/restore/free-port.ts';
import type { WantedTarget } from '../agent/restore/log-target.ts';
import type { RestoreStep } from '../agent/restore/progress.ts';
import { type RestoreOutcome, runRestore } from '../agent/restore/restore.ts';
import { parseTablespaceOption } from '../engine/postgres/restore/tablespaces.ts';
import { assertNever } from '../foundation/assert.ts';
import { systemClock } from '../foundation/clock.ts';
import { HoldfastError } from '../foundation/errors.ts';
import { parseInstantUs } from '../foundation/instant.ts';
import { formatLsn, parseLsn, toTimeline } from '../foundation/lsn.ts';
import { formatSize } from '../foundation/units.ts';
import type { DataKey } from '../storage-layout/encryption/key-ring.ts';
import { unlockWithLog } from '../storage-layout/encryption/unlock.ts';
import { findRoot, findTenant } from '../storage-layout/plan/discovery.ts';
import { findRestorePoints } from '../storage-layout/plan/restore-points.ts';
import { readTenantHistory } from '../storage-layout/plan/tenant-history.ts';
import {
  type ChosenSet,
  chooseSet,
  formatInstant,
  type RestoreTarget,
} from '../storage-layout/plan/windows.ts';
import type { TreeRoot } from '../storage-layout/tree.ts';
import {
  addBackupKeyOptions,
  type BackupKeyOptions,
  openWithBackupKeys,
  readBackupKeys,
} from './backup-keys.ts';
import { addExamples } from './help.ts';
import { ProgressLine } from './progress-line.ts';
import { findBinDirectory, findServerUser } from './server-host.ts';

type RestoreOptions = BackupKeyOptions & {
  readonly from: string;
  readonly tenant: string;
  readonly to: string;
  readonly cluster?: string;
  readonly clusterId?: bigint;
  readonly until?: bigint;
  readonly untilLsn?: bigint;
  readonly untilXid?: number;
  readonly untilName?: string;
  readonly exclusive?: boolean;
  readonly immediate?: boolean;
  readonly timeline?: number;
  readonly set?: bigint;
  readonly partitionGroup?: string;
  readonly port?: number;
  readonly tablespaceMap?: ReadonlyMap<string, string>;
  readonly concurrency?: number;
  readonly binDirectory?: string;
  readonly runAs?: string;
  readonly user: string;
  readonly delta?: boolean;
  readonly start: boolean;
};

export function registerRestore(program: Command): void {
  const command = program
    .command('restore')
    .summary('restore from a destination alone, without coordinator or catalog')
    .description(
      'Restore a tenant from its destination alone. The newest backup set before the target is laid down into a ' +
        'directory that is absent or empty, a server is started on it with settings that keep it from acting on the ' +
        'world, the archived log is replayed up to the target, and the server is checked and left running.\n\n' +
        'Without a target everything that was archived is restored.\n\n' +
        'With --delta the directory is an existing data directory of the same database, stopped: only the blocks that ' +
        'differ are written, and what the backup does not have is removed. It is refused while there is a ' +
        'postmaster.pid in it, whose server may run where it is not seen from here.',
    )
    .requiredOption('--from <uri>', 'the destination, for example file:///backup')
    .requiredOption('--tenant <name>', 'the tenant, by name or id')
    .requiredOption('--to <directory>', 'the new data directory: absent or empty, but for --delta')
    .option('--cluster <name>', 'the cluster, when the destination holds several')
    .option('--cluster-id <id>', "the cluster's id", parseId)
    .option('--until <time>', 'restore what was committed before this time', instant)
    .option('--until-lsn <position>', 'restore up to this log position, X/X', position)
    .option('--until-xid <id>', 'restore up to the end of this transaction', parseXid)
    .option('--until-name <name>', 'restore up to this restore point')
    .option('--exclusive', 'stop before what the target names, not behind it')
    .option('--immediate', 'restore to the earliest instant of the newest backup set')
    .option('--timeline <number>', 'follow this timeline; default: the newest', parsePositive)
    .option('--set <id>', 'restore from this backup set; default: the newest before the target', parseId)
    .option('--partition-group <name>', 'which one, when the tenant has several')
    .option('--port <number>', "the restored server's port; default: a free one", parsePort)
    .option(
      '--tablespace-map <a:b>',
      'put the tablespace of location a into directory b (repeat it); default: <to>.tablespaces/<oid>',
      addMapping,
    )
    .option('--concurrency <number>', 'worker threads; default: one per core', parsePositive)
    .option('--bin-directory <directory>', 'where postgres and pg_ctl are; default: found by version')
    .option('--run-as <user>', 'who the server runs as, when started by root; default: postgres')
    .option('--user <role>', 'a superuser of the restored database, for the check', 'postgres')
    .option('--delta', 'restore over the stopped data directory of the same database: write what differs')
    .option('--no-start', 'lay down baseline, log and settings, and start nothing');
  addBackupKeyOptions(command).action(async (options: RestoreOptions) => await restore(options));
  addExamples(command, [
    ['everything that was archived', 'holdfast restore --from file:///backup --tenant orders --to /restored'],
    [
      'the last instant before an accident',
      `holdfast restore --from file:///backup --tenant orders --until '2026-11-21 14:05:30+01' --to /restored`,
    ],
    [
      'set a copy back to an earlier instant',
      `holdfast restore --delta --from file:///backup --tenant orders --until '2026-11-21 14:05:30+01' --to /restored`,
    ],
  ]);
}

async function restore(options: RestoreOptions): Promise<void> {
  const interrupt = new AbortController();
  const onSignal = () =>
    interrupt.abort(new HoldfastError('CANCELLED', interruption(options.delta === true)));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    await restoreUntil(options, interrupt.signal);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}

function interruption(delta: boolean): string {
  return delta
    ? 'the restore was interrupted: the directory is incomplete until it is run again with --delta'
    : 'the restore was interrupted: what it made is removed';
}

async function restoreUntil(options: RestoreOptions, signal: AbortSignal): Promise<void> {
  const target = targetOf(options);
  const { root, chosen, tenantId, keys } = await choose(options, target, signal);
  const group = groupOf(options, chosen);
  console.log(
    `Restoring tenant "${chosen.set.tenantName}", backup set ${chosen.set.backupSetId}, ${describeTarget(target)}`,
  );
  const startedMs = systemClock.monotonicMs();
  using line = new ProgressLine(process.stderr);
  const outcome = await runRestore(
    {
      uri: options.from,
      keys,
      root,
      set: { tenantId, fullSetId: chosen.set.fullSetId, setId: chosen.set.backupSetId },
      round: chosen.round,
      partitionGroup: group,
      target: wantedTarget(target, options.exclusive !== true),
      timeline: target.timeline,
      dataDirectory: resolve(options.to),
      tablespaceMap: options.tablespaceMap ?? new Map(),
      concurrency: options.concurrency,
      user: await findServerUser(options.runAs),
      unit: undefined,
      checkUser: options.user,
      delta: options.delta === true,
      start: options.start,
      binDirectory: (major) => findBinDirectory(major, options.binDirectory),
      port: async () => options.port ?? (await anyFreePort()),
    },
    (step) => line.show(describeStep(step, (systemClock.monotonicMs() - startedMs) / 1000)),
    signal,
  );
  line[Symbol.dispose]();
  printOutcome(outcome, (systemClock.monotonicMs() - startedMs) / 1000);
}

async function choose(
  options: RestoreOptions,
  target: RestoreTarget,
  signal: AbortSignal,
): Promise<{
  readonly root: TreeRoot;
  readonly chosen: ChosenSet;
  readonly tenantId: bigint;
  readonly keys: readonly DataKey[];
}> {
  const secrets = await readBackupKeys(options);
  await using medium = await openWithBackupKeys(options.from, secrets, signal);
  const root = await findRoot(medium, { clusterName: options.cluster, clusterId: options.clusterId }, signal);
  const { tenantId } = await findTenant(medium, root, options.tenant, signal);
  const history = await readTenantHistory(medium, root, tenantId, signal);
  const placed =
    target.kind === 'name'
      ? { ...target, places: await findRestorePoints(medium, root, history, target.name, signal) }
      : target;
  const chosen = chooseSet(history, placed, systemClock.nowUs(), options.set);
  for (const { key, reason } of history.unreadable)
    console.error(`WARNING:  not readable: ${key}: ${reason}`);
  const { set, round } = chosen;
  const key = { tenantId, fullSetId: set.fullSetId, setId: set.backupSetId };
  const keys = await unlockWithLog(medium, root, key, round, secrets, signal);
  return { root, tenantId, chosen, keys };
}

function targetOf(options: RestoreOptions): RestoreTarget {
  const { until, untilLsn, untilXid, untilName, immediate } = options;
  const given = [until, untilLsn, untilXid, untilName, immediate].filter((value) => value !== undefined);
  if (given.length > 1)
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      'give one of --until, --until-lsn, --until-xid, --until-name and --immediate',
    );
  if (options.exclusive === true && (given.length === 0 || immediate === true))
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      '--exclusive needs a time, a position, a transaction or a name',
    );
  const timeline = options.timeline === undefined ? undefined : toTimeline(options.timeline);
  if (options.until !== undefined) return { kind: 'time', timeUs: options.until, timeline };
  if (options.untilLsn !== undefined)
    return { kind: 'lsn', lsn: parseLsn(formatLsn(options.untilLsn)), timeline };
  if (untilXid !== undefined) return { kind: 'xid', xid: untilXid, timeline };
  if (untilName !== undefined) return { kind: 'name', name: untilName, places: [], timeline };
  return { kind: options.immediate === true ? 'immediate' : 'endOfLog', timeline };
}

function wantedTarget(target: RestoreTarget, inclusive: boolean): WantedTarget {
  if (target.kind === 'endOfLog' || target.kind === 'immediate') return target;
  return { ...target, inclusive };
}

function groupOf(options: RestoreOptions, chosen: ChosenSet): string {
  const names = chosen.window.groups.map((group) => group.partitionGroup);
  const [only] = names;
  const wanted = options.partitionGroup;
  if (wanted !== undefined && names.includes(wanted)) return wanted;
  if (wanted !== undefined)
    throw new HoldfastError(
      'INVALID_ARGUMENT',
      `partition group "${wanted}" is none of the tenant's at the target`,
      {
        detail: `There are: ${names.join(', ')}.`,
      },
    );
  if (only !== undefined && names.length === 1) return only;
  throw new HoldfastError('INVALID_ARGUMENT', `the tenant has ${names.length} partition groups`, {
    hint: `Restore one after the other with --partition-group: ${names.join(', ')}.`,
  });
}

function describeTarget(target: RestoreTarget): string {
  if (target.kind === 'time') return `until ${formatInstant(target.timeUs)}`;
  if (target.kind === 'lsn') return `until log position ${formatLsn(target.lsn)}`;
  if (target.kind === 'xid') return `until the end of transaction ${target.xid}`;
  if (target.kind === 'name') return `until restore point "${target.name}"`;
  return target.kind === 'immediate'
    ? 'as it was when the backup ended'
    : 'until the end of the archived log';
}

function describeStep(step: RestoreStep, seconds: number): string {
  switch (step.phase) {
    case 'CREATE':
    case 'SYSTEM_DATA':
      return `${step.phase}: checking the backup set`;
    case 'USER_DATA': {
      const percent = step.bytesTotal === 0n ? 100 : Number((step.bytesDone * 100n) / step.bytesTotal);
      const rate = formatSize(Number(step.bytesDone) / Math.max(seconds, 0.001));
      return `USER_DATA: ${formatSize(step.bytesDone)} of ${formatSize(step.bytesTotal)} (${percent}%), ${rate}/s`;
    }
    case 'LOG': {
      const at = step.replayLsn === undefined ? 'starting the server' : `at ${formatLsn(step.replayLsn)}`;
      return `LOG: ${at}${step.targetLsn === undefined ? '' : ` of ${formatLsn(step.targetLsn)}`}`;
    }
    case 'CHECK':
      return 'CHECK: asking the restored server';
    default:
      return assertNever(step.phase);
  }
}

function printOutcome(outcome: RestoreOutcome, seconds: number): void {
  const size = formatSize(outcome.bytesRestored);
  console.log(`Restored ${size} into ${outcome.dataDirectory} in ${seconds.toFixed(1)} s`);
  const { kept } = outcome;
  if (kept !== undefined)
    console.log(
      `Kept ${kept.blocks} macroblocks (${formatSize(kept.bytes)}) that were there, wrote ${kept.blocksWritten} ` +
        `(${formatSize(outcome.bytesRestored - kept.bytes)})`,
    );
  for (const { location, directory } of outcome.tablespaces)
    console.log(`Tablespace ${location} is now in ${directory}`);
  const { server } = outcome;
  if (server === undefined) {
    console.log(`Start PostgreSQL ${outcome.major} on it: it replays its log by itself.`);
    return;
  }
  const reached = server.replayed === undefined ? '' : ` up to ${formatLsn(server.replayed)}`;
  const commit =
    server.lastCommitUs === undefined ? '' : `, last commit ${formatInstant(server.lastCommitUs)}`;
  console.log(`Replayed the log${reached}${commit}; now on timeline ${server.timeline}`);
  console.log(`PostgreSQL ${server.serverVersion} listens on ${server.host}, port ${server.port}`);
}

/** commander prints what an option's parser throws only when it is an InvalidArgumentError. */
function checked<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (!(error instanceof HoldfastError)) throw error;
      throw new InvalidArgumentError(
        [error.message, error.hint].filter((part) => part !== undefined).join('. '),
      );
    }
  };
}

function instant(text: string): bigint {
  return checked(parseInstantUs)(text);
}

function position(text: string): bigint {
  return checked(parseLsn)(text);
}

function addMapping(text: string, map: ReadonlyMap<string, string> = new Map()): ReadonlyMap<string, string> {
  return new Map([...map, checked(parseTablespaceOption)(text)]);
}

function parseId(text: string): bigint {
  if (!/^[0-9]{1,18}$/.test(text)) throw new InvalidArgumentError('Write a number.');
  return BigInt(text);
}

/** With or without its epoch, as the server's functions show it. */
function parseXid(text: string): number {
  if (!/^[0-9]{1,19}$/.test(text)) throw new InvalidArgumentError('Write a transaction id.');
  return Number(BigInt(text) & 0xffff_ffffn);
}

function parsePort(text: string): number {
  const value = parsePositive(text);
  if (value > 65_535) throw new InvalidArgumentError('Write a port, 1 to 65535.');
  return value;
}

function parsePositive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 0xffff_ffff)
    throw new InvalidArgumentError('Write a number of at least 1.');
  return value;
}

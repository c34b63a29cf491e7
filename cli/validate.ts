/** `holdfast validate`: reads a destination and says what is not as it was written, without coordinator or catalog. */
import { type Command, InvalidArgumentError } from 'commander';
import { type Finding, formatFinding } from '../agent/validate/findings.ts';
import type { ValidationStep } from '../agent/validate/progress.ts';
import { runValidation, type Validated, type Validation } from '../agent/validate/validate.ts';
import { HoldfastError, isError } from '../foundation/errors.ts';
import { formatSize } from '../foundation/units.ts';
import { BackupInfoSchema, type RoundBegin, RoundBeginSchema } from '../proto/gen/holdfast/v1/records_pb.ts';
import type { DataKey } from '../storage-layout/encryption/key-ring.ts';
import { unlockRoundToValidate, unlockToValidate } from '../storage-layout/encryption/unlock.ts';
import type { KeySecrets } from '../storage-layout/encryption/wrapping.ts';
import type { Medium } from '../storage-layout/media/medium.ts';
import { type FoundTenant, findRoot, findTenant, findTenants } from '../storage-layout/plan/discovery.ts';
import { archivedGroups } from '../storage-layout/plan/membership.ts';
import { readMembers } from '../storage-layout/plan/read-members.ts';
import { listRounds, listSets } from '../storage-layout/plan/tenant-history.ts';
import { readInfoIfThere } from '../storage-layout/records/info-file.ts';
import { type SetKey, type TreeRoot, tree } from '../storage-layout/tree.ts';
import {
  addBackupKeyOptions,
  type BackupKeyOptions,
  openWithBackupKeys,
  readBackupKeys,
} from './backup-keys.ts';
import { addExamples } from './help.ts';
import { parseId } from './log-source.ts';
import { ProgressLine } from './progress-line.ts';

type ValidateOptions = BackupKeyOptions & {
  readonly from: string;
  readonly cluster?: string;
  readonly clusterId?: bigint;
  readonly tenant?: string;
  readonly set?: bigint;
  readonly concurrency?: number;
  readonly json?: boolean;
};

type Subject = {
  readonly what: string;
  readonly tenant: FoundTenant;
  readonly partitionGroup: string;
  readonly subject: Validation['subject'];
};

export function registerValidate(program: Command): void {
  const command = program
    .command('validate')
    .summary('read a destination and say what is not as it was written')
    .description(
      'Read every block of the backup sets, their describing files and the archived log; check framing, checksums, ' +
        'decompression, pages and records; and name what is damaged, missing or cut off, the relations it holds and ' +
        'the sets that need it. Nothing is written. Exit code 1: something was found.',
    )
    .requiredOption('--from <uri>', 'the destination, for example file:///backup')
    .option('--cluster <name>', 'the cluster, when the destination holds several')
    .option('--cluster-id <id>', "the cluster's id", parseId)
    .option('--tenant <name>', 'only this tenant, by name or id')
    .option('--set <id>', 'only this backup set, with the log that it needs', parseId)
    .option('--concurrency <number>', 'worker threads; default: one per core', parsePositive)
    .option('--json', 'one JSON object per finding');
  addBackupKeyOptions(command).action(async (options: ValidateOptions) => await validate(options));
  addExamples(command, [
    ['everything', 'holdfast validate --from file:///backup'],
    ['one set', 'holdfast validate --from file:///backup --tenant orders --set 7'],
  ]);
}

async function validate(options: ValidateOptions): Promise<void> {
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(new HoldfastError('CANCELLED', 'the validation was interrupted'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    await validateAll(options, interrupt.signal);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}

async function validateAll(options: ValidateOptions, signal: AbortSignal): Promise<void> {
  const secrets = await readBackupKeys(options);
  await using medium = await openWithBackupKeys(options.from, secrets, signal);
  const root = await findRoot(medium, { clusterName: options.cluster, clusterId: options.clusterId }, signal);
  const subjects = await findSubjects(medium, root, options, signal);
  let found = 0;
  for (const { what, tenant, partitionGroup, subject } of subjects) {
    const keys = await keysOf(medium, root, tenant.tenantId, subject, secrets, signal);
    using line = new ProgressLine(process.stderr);
    const validated = await runValidation(
      {
        uri: options.from,
        keys,
        root,
        tenantId: tenant.tenantId,
        partitionGroup,
        concurrency: options.concurrency,
        subject,
      },
      (step) => line.show(`${what}: ${describeStep(step)}`),
      signal,
    );
    line[Symbol.dispose]();
    found += validated.findingCount;
    print(what, validated, options.json === true);
  }
  if (options.json !== true) console.log(found === 0 ? 'Nothing is wrong' : `${found} findings`);
  if (found > 0) process.exitCode = 1;
}

/** Throws BACKUP_INVALID_PASSWORD before anything is read. */
async function keysOf(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  subject: Validation['subject'],
  secrets: KeySecrets,
  signal: AbortSignal,
): Promise<readonly DataKey[]> {
  if (subject.kind === 'log')
    return await unlockRoundToValidate(medium, root, { tenantId, round: subject.round }, secrets, signal);
  const infoKey = tree.backupInfo(root, subject.key);
  const info = await readInfoIfThere(medium, infoKey, BackupInfoSchema, signal).catch((error: unknown) => {
    if (isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) return undefined; // the validation names it
    throw error;
  });
  return await unlockToValidate(medium, root, subject.key, info?.round ?? 0n, secrets, signal);
}

/** Every set and round of the tenants that are asked for, by partition group. Throws INVALID_BACKUP_SET_ID. */
async function findSubjects(
  medium: Medium,
  root: TreeRoot,
  options: ValidateOptions,
  signal: AbortSignal,
): Promise<readonly Subject[]> {
  const tenants =
    options.tenant === undefined
      ? await findTenants(medium, root, signal)
      : [await findTenant(medium, root, options.tenant, signal)];
  const subjects: Subject[] = [];
  for (const tenant of tenants) {
    subjects.push(...(await findSetSubjects(medium, root, tenant, options.set, signal)));
    if (options.set === undefined) subjects.push(...(await findLogSubjects(medium, root, tenant, signal)));
  }
  if (options.set !== undefined && subjects.length === 0)
    throw new HoldfastError(
      'INVALID_BACKUP_SET_ID',
      `there is no backup set ${options.set} at ${medium.displayUri}`,
    );
  return subjects;
}

async function findSetSubjects(
  medium: Medium,
  root: TreeRoot,
  tenant: FoundTenant,
  wanted: bigint | undefined,
  signal: AbortSignal,
): Promise<readonly Subject[]> {
  const keys = [...(await listSets(medium, root, tenant.tenantId, signal))]
    .filter(({ setId }) => wanted === undefined || setId === wanted)
    .sort((a, b) => (a.setId < b.setId ? -1 : 1));
  const subjects: Subject[] = [];
  for (const key of keys) {
    if ((await medium.stat(tree.deleteMark(root, key), signal)) !== undefined) continue;
    for (const partitionGroup of await groupsOfSet(medium, root, key, signal))
      subjects.push({
        what: `Tenant ${tenant.name}, backup set ${key.setId}, ${partitionGroup}`,
        tenant,
        partitionGroup,
        subject: { kind: 'set', key },
      });
  }
  return subjects;
}

/** None: the set was never published. Where the commit point is damaged, the directories tell. */
async function groupsOfSet(
  medium: Medium,
  root: TreeRoot,
  key: SetKey,
  signal: AbortSignal,
): Promise<readonly string[]> {
  try {
    const info = await readInfoIfThere(medium, tree.backupInfo(root, key), BackupInfoSchema, signal);
    return info?.partitionGroups.map(({ partitionGroup }) => partitionGroup) ?? [];
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
    const directory = tree.macroDirectory(root, key.tenantId, key.fullSetId, 'any').replace(/\/any$/, '');
    return (await medium.listNames(directory, signal)).slice(0, 1);
  }
}

async function findLogSubjects(
  medium: Medium,
  root: TreeRoot,
  tenant: FoundTenant,
  signal: AbortSignal,
): Promise<readonly Subject[]> {
  const subjects: Subject[] = [];
  for (const round of await listRounds(medium, root, tenant.tenantId, signal)) {
    for (const partitionGroup of await groupsOfRound(medium, root, tenant.tenantId, round, signal))
      subjects.push({
        what: `Tenant ${tenant.name}, log of round ${round}, ${partitionGroup}`,
        tenant,
        partitionGroup,
        subject: { kind: 'log', round, checked: [], until: undefined },
      });
  }
  return subjects;
}

/** None: the round never began, and holds no log. Where a file that should tell is damaged, the directories tell too. */
async function groupsOfRound(
  medium: Medium,
  root: TreeRoot,
  tenantId: bigint,
  round: bigint,
  signal: AbortSignal,
): Promise<readonly string[]> {
  const key = { tenantId, round };
  const fromFiles = async () =>
    await medium.listNames(tree.logDataDirectory(root, key, 'any').replace(/\/any$/, ''), signal);
  let begin: RoundBegin | undefined;
  try {
    begin = await readInfoIfThere(medium, tree.roundBegin(root, key), RoundBeginSchema, signal);
    if (begin === undefined) return await fromFiles();
    const groups = archivedGroups(await readMembers(medium, root, key, begin, signal));
    return groups.map(({ partitionGroup }) => partitionGroup);
  } catch (error) {
    if (!isError(error, 'DATA_CORRUPT', 'FORMAT_UNKNOWN')) throw error;
    const named = begin?.groups.map(({ partitionGroup }) => partitionGroup) ?? [];
    return [...new Set([...named, ...(await fromFiles())])];
  }
}

function print(what: string, validated: Validated, asJson: boolean): void {
  if (asJson) {
    for (const finding of validated.findings) console.log(toJson(what, finding));
    return;
  }
  const parts = [
    ...(validated.blockCount === 0n
      ? []
      : [`${validated.blockCount} macroblocks (${formatSize(validated.bytes)})`]),
    `${formatSize(validated.logBytes)} of log`,
  ];
  const verdict = validated.findingCount === 0 ? 'right' : `${validated.findingCount} findings`;
  console.log(`${what}: ${parts.join(', ')}: ${verdict}`);
  for (const finding of validated.findings) console.log(`  ${formatFinding(finding)}`);
  const left = validated.findingCount - validated.findings.length;
  if (left > 0) console.log(`  and ${left} more`);
}

function toJson(subject: string, finding: Finding): string {
  return JSON.stringify({ subject, ...finding }, (_, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  );
}

function describeStep(step: ValidationStep): string {
  const done = step.bytesDone + step.logBytesDone;
  const total = step.bytesTotal + step.logBytesTotal;
  const percent = total === 0n ? 0n : (done * 100n) / total;
  const found = step.findingCount === 0 ? '' : `, ${step.findingCount} findings`;
  return `${step.phase} ${formatSize(done)} of ${formatSize(total)} (${percent}%)${found}`;
}

function parsePositive(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > 1024)
    throw new InvalidArgumentError('Write a number from 1 to 1024.');
  return value;
}

/** `holdfast inspect`: what a destination holds, or any single file of it decoded. */
import { stat } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Command } from 'commander';
import { isError } from '../foundation/errors.ts';
import { formatLsn } from '../foundation/lsn.ts';
import { formatSize } from '../foundation/units.ts';
import {
  type BackupInfo,
  BackupType,
  EncryptionMode,
  type PartitionGroupBackup,
  type RoundEnd,
  RoundState,
} from '../proto/gen/holdfast/v1/records_pb.ts';
import { describeFile, type FileDescription, type PlainValue } from '../storage-layout/describe.ts';
import { MODE_NAMES } from '../storage-layout/encryption/key-records.ts';
import type { Medium } from '../storage-layout/media/medium.ts';
import { type FoundTenant, findRoots, findTenants } from '../storage-layout/plan/discovery.ts';
import { readTenantHistory } from '../storage-layout/plan/tenant-history.ts';
import {
  describeWindows,
  formatInstant,
  type RoundHistory,
  restorableWindows,
  type TenantHistory,
} from '../storage-layout/plan/windows.ts';
import { parseTreePath, type TreeRoot, tree } from '../storage-layout/tree.ts';
import {
  addBackupKeyOptions,
  type BackupKeyOptions,
  openWithBackupKeys,
  readBackupKeys,
} from './backup-keys.ts';
import { addExamples } from './help.ts';

type InspectOptions = BackupKeyOptions & { readonly tenant?: string; readonly json?: boolean };

export function registerInspect(program: Command): void {
  const command = program
    .command('inspect')
    .summary('show what a destination holds, or decode any single file of it')
    .description(
      'Show what a destination holds: clusters, tenants, backup sets, archive rounds, restorable windows and sizes. ' +
        'Or, given a file of the format, decode every record of it.',
    )
    .argument('<uri or file>', 'a destination, for example file:///backup, or one file')
    .option('--tenant <name>', 'only this tenant, by name or id')
    .option('--json', 'a single file as JSON');
  addBackupKeyOptions(command).action(
    async (place: string, options: InspectOptions) => await inspect(place, options),
  );
  addExamples(command, [
    ['what can be restored', 'holdfast inspect file:///backup'],
    [
      'one file',
      'holdfast inspect /backup/fleet/1/incarnation_1/1001/data/backup_set_1/backup_1/backup_info',
    ],
  ]);
}

async function inspect(place: string, options: InspectOptions): Promise<void> {
  const file = await asFile(place);
  const secrets = await readBackupKeys(options);
  if (file === undefined) {
    const uri = isUri(place) ? place : pathToFileURL(resolve(place)).href;
    await using medium = await openWithBackupKeys(uri, secrets);
    await inspectDestination(medium, options);
    return;
  }
  const { directory, key } = placeInTree(file);
  await using medium = await openWithBackupKeys(pathToFileURL(directory).href, secrets);
  const description = await describeFile(medium, key);
  if (options.json === true) console.log(JSON.stringify(description, replaceBigints, 2));
  else printFile(file, description);
  if (description.problem !== undefined) process.exitCode = 4;
}

/** A file that stands in a destination's tree is read as part of it: so its key is found. */
function placeInTree(file: string): { readonly directory: string; readonly key: string } {
  const [, directory, key] = /^(.*)\/([^/]+\/[^/]+\/incarnation_1\/.+)$/.exec(resolve(file)) ?? [];
  if (directory === undefined || key === undefined || parseTreePath(key) === undefined)
    return { directory: dirname(file), key: basename(file) };
  return { directory: directory === '' ? '/' : directory, key };
}

async function inspectDestination(medium: Medium, options: InspectOptions): Promise<void> {
  console.log(`Destination ${medium.displayUri}`);
  const roots = await findRoots(medium);
  if (roots.length === 0) console.log('It holds no Holdfast cluster.');
  for (const root of roots) {
    console.log(`\nCluster ${root.clusterName}, id ${root.clusterId}`);
    const tenants = (await findTenants(medium, root)).filter(
      (tenant) =>
        options.tenant === undefined ||
        tenant.name === options.tenant ||
        String(tenant.tenantId) === options.tenant,
    );
    if (tenants.length === 0) console.log('  no tenant');
    for (const tenant of tenants) await inspectTenant(medium, root, tenant);
  }
}

async function inspectTenant(medium: Medium, root: TreeRoot, tenant: FoundTenant): Promise<void> {
  const dropped = tenant.droppedUs === undefined ? '' : `, dropped ${formatInstant(tenant.droppedUs)}`;
  console.log(`\n  Tenant ${tenant.name}, id ${tenant.tenantId}${dropped}`);
  const history = await readTenantHistory(medium, root, tenant.tenantId);
  printSets(history);
  for (const round of history.rounds) {
    const directory = tree
      .roundBegin(root, { tenantId: tenant.tenantId, round: round.begin.round })
      .replace(/\/[^/]*$/, '');
    printRound(round, await sizeBelow(medium, directory));
  }
  console.log('    Restorable windows');
  for (const line of describeWindows(restorableWindows(history)).split('\n')) console.log(`      ${line}`);
  for (const { key, reason } of history.unreadable) console.log(`    UNREADABLE ${key}: ${reason}`);
}

const KINDS: Readonly<Record<BackupType, string>> = {
  [BackupType.UNSPECIFIED]: 'full',
  [BackupType.FULL]: 'full',
  [BackupType.INCREMENTAL]: 'incremental',
  [BackupType.SYNTHETIC]: 'synthetic full',
};

/** `, encrypted (TRANSPARENT_ENCRYPTION)`; empty for what is plain. */
function describeMode(mode: EncryptionMode): string {
  return mode === EncryptionMode.UNSPECIFIED ? '' : `, encrypted (${MODE_NAMES[mode] ?? mode})`;
}

function printSets(history: TenantHistory): void {
  if (history.sets.length === 0) console.log('    no backup set');
  for (const set of history.sets) printSet(set);
}

function printSet(set: BackupInfo): void {
  const kind = KINDS[set.type];
  const name =
    set.previousSetId === 0n ? '' : ` of full set ${set.fullSetId}, after set ${set.previousSetId}`;
  const source =
    set.sourceSetId === 0n
      ? ''
      : ` made of set ${set.sourceSetId}, every page read at ${formatInstant(set.pagesReadUs)} or later`;
  const description = set.description === '' ? '' : ` "${set.description}"`;
  const secret = describeMode(set.encryptionMode);
  console.log(
    `    Backup set ${set.backupSetId}, ${kind}${name}${source}, round ${set.round}${secret}${description}`,
  );
  if (set.reason !== '') console.log(`      a real full backup was made instead: ${set.reason}`);
  for (const group of set.partitionGroups) {
    console.log(
      `      ${group.partitionGroup}: PostgreSQL ${group.serverVersion}, ${formatInstant(group.startUs)} to ` +
        `${formatInstant(group.stopUs)}, ${formatLsn(group.start?.lsn ?? 0n)} to ${formatLsn(group.stop?.lsn ?? 0n)}`,
    );
    console.log(
      `        ${group.fileCount} files, ${group.macroblockCount} macroblocks, ${formatSize(group.inputBytes)} ` +
        `${readPart(group)}stored as ${formatSize(group.outputBytes)}`,
    );
    for (const failure of group.pageFailures)
      console.log(`        DAMAGED PAGE ${failure.path} block ${failure.block}: ${failure.reason}`);
  }
}

function readPart(group: PartitionGroupBackup): string {
  return group.previousSetId === 0n || group.sourceSetId !== 0n
    ? ''
    : `of which ${formatSize(group.readBytes)} were read, `;
}

function printRound(round: RoundHistory, sizeBytes: number): void {
  const state = stateOf(round.end);
  console.log(
    `    Archive round ${round.begin.round}, ${state}, since ${formatInstant(round.begin.beginUs)}, ` +
      `${formatSize(sizeBytes)} at the destination${describeMode(round.begin.encryptionMode)}`,
  );
  for (const { partitionGroup, joinedUs, leftUs } of round.members) {
    if (joinedUs > 0n) console.log(`      ${partitionGroup}: joined ${formatInstant(joinedUs)}`);
    if (leftUs > 0n) console.log(`      ${partitionGroup}: left ${formatInstant(leftUs)}`);
  }
  for (const group of round.groups) {
    for (const range of group.coverage) {
      const until = range.checkpointUs === undefined ? '' : `, until ${formatInstant(range.checkpointUs)}`;
      console.log(
        `      ${group.partitionGroup}: timeline ${range.timeline}, ${formatLsn(range.begin)} to ` +
          `${formatLsn(range.end)} (${formatSize(range.end - range.begin)})${until}`,
      );
    }
  }
}

function stateOf(end: RoundEnd | undefined): string {
  if (end === undefined) return 'not ended';
  const reason = end.reason === '' ? '' : `: ${end.reason}`;
  const state = Object.entries(RoundState).find(([, value]) => value === end.state)?.[0] ?? String(end.state);
  return `ended ${formatInstant(end.endUs)}, ${state}${reason}`;
}

function printFile(path: string, description: FileDescription): void {
  console.log(`${path}: ${description.contents ?? 'unknown contents'}, ${formatSize(description.sizeBytes)}`);
  for (const record of description.records) {
    console.log(
      `\noffset ${record.offset}: ${record.type}, ${record.storedBytes} bytes stored, ${record.plainBytes} plain, ` +
        `compression ${record.compression}`,
    );
    printValue(record.value, '  ');
  }
  const { problem } = description;
  if (problem !== undefined) console.log(`\n${problem.code}: ${problem.message}`);
}

/** Values as an outline; a list of plain objects takes a line per object. */
function printValue(value: PlainValue, indent: string): void {
  if (typeof value !== 'object') {
    console.log(`${indent}${String(value)}`);
    return;
  }
  for (const [name, inner] of Object.entries(value)) {
    const label = Array.isArray(value) ? '-' : `${name}:`;
    if (typeof inner !== 'object') console.log(`${indent}${label} ${String(inner)}`);
    else if (Array.isArray(value) && isFlat(inner)) console.log(`${indent}- ${formatFlat(inner)}`);
    else {
      console.log(`${indent}${label}`);
      printValue(inner, `${indent}  `);
    }
  }
}

function isFlat(value: PlainValue): boolean {
  return typeof value === 'object' && Object.values(value).every((inner) => typeof inner !== 'object');
}

function formatFlat(value: PlainValue): string {
  return Object.entries(value)
    .map(([name, inner]) => `${name}=${String(inner)}`)
    .join(' ');
}

async function sizeBelow(medium: Medium, prefix: string): Promise<number> {
  let sizeBytes = 0;
  for await (const page of medium.list(prefix))
    sizeBytes += page.reduce((sum, file) => sum + file.sizeBytes, 0);
  return sizeBytes;
}

/** The path of an existing plain file, given as a path or a file URI; undefined for anything else. */
async function asFile(place: string): Promise<string | undefined> {
  const path = place.startsWith('file://') ? decodeURIComponent(new URL(place).pathname) : resolve(place);
  if (isUri(place) && !place.startsWith('file://')) return undefined;
  try {
    return (await stat(path)).isFile() ? path : undefined;
  } catch (error) {
    if (isError(error) || (error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function isUri(place: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(place);
}

function replaceBigints(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? String(value) : value;
}

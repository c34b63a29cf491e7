/**
 * A validation of one partition group: of its part of a set, with the log from the set's start to its stop, or of its log
 * in a round. It reads from the destination alone and writes nothing.
 */
import type { LogRange } from '../../storage-layout/clog/ranges.ts';
import { windowOf } from '../../storage-layout/clog/set-window.ts';
import type { DataKey } from '../../storage-layout/encryption/key-ring.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import type { SetKey, TreeRoot } from '../../storage-layout/tree.ts';
import { checkLog, type LogSubject } from './check-log.ts';
import { checkSet } from './check-set.ts';
import { type Finding, Findings, type NewFinding } from './findings.ts';
import { findSetsSharing, readWindows, setsNeedingLog } from './needed-by.ts';
import { ValidationReporter, type ValidationStep } from './progress.ts';
import { readRoundEnd, readRoundStart } from './read-round.ts';

export type Validation = {
  /** May hold credentials: never logged. */
  readonly uri: string;
  /** Of what is encrypted at the destination; default: nothing is. Never logged. */
  readonly keys?: readonly DataKey[] | undefined;
  readonly root: TreeRoot;
  readonly tenantId: bigint;
  readonly partitionGroup: string;
  /** Worker threads; undefined: one per core. */
  readonly concurrency: number | undefined;
  readonly subject:
    | { readonly kind: 'set'; readonly key: SetKey }
    | {
        readonly kind: 'log';
        readonly round: bigint;
        /** Not read again. */
        readonly checked: readonly LogRange[];
        readonly until: LogSubject['until'];
      };
};

export type Validated = {
  /** The first of them. */
  readonly findings: readonly Finding[];
  readonly findingCount: number;
  readonly bytes: bigint;
  readonly blockCount: bigint;
  readonly logBytes: bigint;
  /** Of a round: the log that is right. */
  readonly logs: readonly LogRange[];
};

/** Throws the medium's errors; what is damaged, missing or cut off is a finding. */
export async function runValidation(
  validation: Validation,
  report: (step: ValidationStep) => void,
  signal: AbortSignal,
): Promise<Validated> {
  await using medium = await openKeyedMedium(validation.uri, validation.keys, signal);
  const reporter = new ValidationReporter(report);
  const findings = new Findings();
  const { subject } = validation;
  const made =
    subject.kind === 'set'
      ? await validateSet(validation, subject.key, medium, findings, reporter, signal)
      : await validateLog(validation, subject, medium, findings, reporter, signal);
  const { bytesDone, blocksDone, logBytesDone } = reporter.step;
  return {
    ...made,
    findingCount: findings.count,
    bytes: bytesDone,
    blockCount: blocksDone,
    logBytes: logBytesDone,
  };
}

type Made = Pick<Validated, 'findings' | 'logs'>;

async function validateSet(
  validation: Validation,
  key: SetKey,
  medium: Medium,
  findings: Findings,
  reporter: ValidationReporter,
  signal: AbortSignal,
): Promise<Made> {
  const { uri, keys, root, partitionGroup, concurrency } = validation;
  const subject = { uri, keys, medium, root, key, partitionGroup, concurrency };
  const { published, databases } = await checkSet(subject, findings, reporter, signal);
  const inData = findings.list(databases, () => ({ setIds: [], shortenedSetIds: [] }));
  const sharing = await findSetsSharing(medium, root, key, partitionGroup, inData, signal);
  const range = published === undefined ? undefined : windowOf(published.backup);
  if (published === undefined || range === undefined)
    return {
      findings: findings.list(databases, (finding) => ({ setIds: sharing(finding), shortenedSetIds: [] })),
      logs: [],
    };
  const round = { tenantId: key.tenantId, round: published.round };
  const start = await readRoundStart(medium, root, round, partitionGroup, findings, signal);
  if (start !== undefined) {
    const place = { medium, root, round, group: partitionGroup };
    await checkLog(
      {
        place,
        start: start.start,
        laterStarts: [],
        range,
        checked: [],
        until: undefined,
        isEnded: false,
      },
      findings,
      reporter,
      signal,
    );
  }
  // All of the window is needed by this set, whatever the file; other sets' are looked up.
  const windows = await readWindows(medium, root, round, partitionGroup, signal);
  const setsOf = (finding: NewFinding) =>
    finding.range === undefined
      ? { setIds: sharing(finding), shortenedSetIds: [] }
      : { setIds: withOwn(setsNeedingLog(finding.range, windows).setIds, key.setId), shortenedSetIds: [] };
  return { findings: findings.list(databases, setsOf), logs: [] };
}

function withOwn(ids: readonly bigint[], own: bigint): readonly bigint[] {
  return ids.includes(own) ? ids : [...ids, own].sort((a, b) => (a < b ? -1 : 1));
}

async function validateLog(
  { root, tenantId, partitionGroup }: Validation,
  subject: Extract<Validation['subject'], { readonly kind: 'log' }>,
  medium: Medium,
  findings: Findings,
  reporter: ValidationReporter,
  signal: AbortSignal,
): Promise<Made> {
  const round = { tenantId, round: subject.round };
  const start = await readRoundStart(medium, root, round, partitionGroup, findings, signal);
  if (start === undefined) return { findings: findings.list(new Map(), noSets), logs: [] };
  const ended = await readRoundEnd(medium, root, round, partitionGroup, findings, signal);
  const place = { medium, root, round, group: partitionGroup };
  const { right } = await checkLog(
    {
      place,
      start: start.start,
      laterStarts: start.laterStarts,
      range: undefined,
      checked: subject.checked,
      until: ended.until ?? subject.until,
      isEnded: ended.isEnded && !start.hasLeft,
    },
    findings,
    reporter,
    signal,
  );
  const windows = await readWindows(medium, root, round, partitionGroup, signal);
  const setsOf = ({ range }: NewFinding) => (range === undefined ? noSets() : setsNeedingLog(range, windows));
  return { findings: findings.list(new Map(), setsOf), logs: right };
}

function noSets(): Pick<Finding, 'setIds' | 'shortenedSetIds'> {
  return { setIds: [], shortenedSetIds: [] };
}

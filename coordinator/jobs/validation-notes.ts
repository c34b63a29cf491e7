/**
 * What of a validation is noted at the destination, beside each set and round: `MAX_AGE` leaves out what the last note found
 * right. So a set is noted right only when all of its tasks were done and found nothing, and is noted as damaged whatever
 * else became of the job: by its own findings, and by those of another set that name an object which it needs too.
 */
import { create } from '@bufbuild/protobuf';
import { type ValidateResult, ValidateResultSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type Note, NoteSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { type NotePlace, readNotes, writeNote } from '../../storage-layout/records/notes.ts';
import { parseTreePath, type SetKey } from '../../storage-layout/tree.ts';
import type { Job, Task } from '../catalog/jobs.ts';
import type { CoordinatorContext } from '../context.ts';
import { checkOwner } from '../destination/claims.ts';
import { type ValidateTaskSpec, validateJobSpec, validateTaskSpec } from './specs.ts';
import { messageFromJson } from './task-results.ts';

type Result = { readonly spec: ValidateTaskSpec; readonly task: Task; readonly result: ValidateResult };

/** Of the tasks that were done. */
export function resultsOf(tasks: readonly Task[]): readonly Result[] {
  return tasks
    .filter((task) => task.state === 'SUCCEEDED')
    .map((task) => ({
      spec: validateTaskSpec.parse(task.spec),
      task,
      result: messageFromJson(ValidateResultSchema, task.result),
    }));
}

/** Writes those that are not there yet. Throws the medium's errors, and INVALID_BACKUP_DEST. */
export async function writeNotes(
  context: CoordinatorContext,
  job: Job,
  tasks: readonly Task[],
  signal: AbortSignal,
): Promise<void> {
  const notes = notesOf(job, context.epoch, context.clock.nowUs(), tasks);
  if (notes.length === 0) return;
  const { destination } = validateJobSpec.parse(job.spec);
  const medium = await context.destinations.open(context.secrets.decrypt(destination), signal);
  await checkOwner(medium, context.deployment, signal);
  for (const { place, note } of notes) {
    const known = await readNotes(medium, context.root, place, signal);
    if (!known.some((one) => one.jobId === job.job_id && one.epoch === note.epoch))
      await writeNote(medium, context.root, place, note, signal);
  }
}

/** Pure. */
export function notesOf(
  job: Pick<Job, 'job_id' | 'tenant_id'>,
  epoch: bigint,
  nowUs: bigint,
  tasks: readonly Task[],
): readonly { readonly place: NotePlace; readonly note: Note }[] {
  const undone = new Set(
    tasks
      .filter((task) => task.state !== 'SUCCEEDED')
      .map((task) => subjectOf(validateTaskSpec.parse(task.spec))),
  );
  const results = resultsOf(tasks);
  const bySubject = Map.groupBy(results, ({ spec }) => subjectOf(spec));
  const shared = damageOfOthers(job.tenant_id, results);
  const own = [...bySubject].flatMap(([subject, ofSubject]) => {
    const place = placeOf(job.tenant_id, ofSubject);
    if (place === undefined) return [];
    const others = shared.get(subject)?.findingCount ?? 0n;
    const value = valueOf(
      ofSubject.map(({ result }) => result),
      others,
    );
    if (place.kind === 'set' && undone.has(subject) && value.findingCount === 0n) return [];
    return [{ place, value }];
  });
  const only = [...shared]
    .filter(([subject]) => !bySubject.has(subject))
    .map(([, { key, findingCount }]) => ({
      place: { kind: 'set' as const, key },
      value: { beginUs: nowUs, endUs: nowUs, findingCount },
    }));
  return [...own, ...only].map(({ place, value }) => ({
    place,
    note: create(NoteSchema, {
      timeUs: nowUs,
      epoch,
      jobId: job.job_id,
      kind: { case: 'validated', value },
    }),
  }));
}

type Damage = { readonly key: SetKey; readonly findingCount: bigint };

/** The findings that name a set as one that needs the object, by that set; the sets that they were made in are left out. */
function damageOfOthers(tenantId: bigint, results: readonly Result[]): ReadonlyMap<string, Damage> {
  const damage = new Map<string, Damage>();
  for (const { spec, result } of results) {
    const { setId: own, fullSetId } = spec.subject;
    if (own === undefined || fullSetId === undefined) continue; // of log: it is read again by the round's own note
    for (const { object, backupSetIds } of result.findings) {
      if (parseTreePath(object)?.kind !== 'macroBlock') continue; // only sets of one full backup share these
      for (const setId of backupSetIds) {
        if (setId === BigInt(own)) continue;
        const subject = `set ${setId}`;
        const known = damage.get(subject)?.findingCount ?? 0n;
        damage.set(subject, {
          key: { tenantId, fullSetId: BigInt(fullSetId), setId },
          findingCount: known + 1n,
        });
      }
    }
  }
  return damage;
}

function subjectOf({ subject }: ValidateTaskSpec): string {
  return subject.setId === undefined ? `round ${subject.round}` : `set ${subject.setId}`;
}

function placeOf(tenantId: bigint, results: readonly Result[]): NotePlace | undefined {
  const subject = results[0]?.spec.subject;
  if (subject?.setId !== undefined && subject.fullSetId !== undefined)
    return {
      kind: 'set',
      key: { tenantId, setId: BigInt(subject.setId), fullSetId: BigInt(subject.fullSetId) },
    };
  return subject?.round === undefined
    ? undefined
    : { kind: 'round', key: { tenantId, round: BigInt(subject.round) } };
}

/** `findingCount`: that are another set's. */
function valueOf(results: readonly ValidateResult[], findingCount: bigint) {
  const sum = (value: (result: ValidateResult) => bigint) =>
    results.reduce((all, one) => all + value(one), 0n);
  const begins = results.map((result) => result.beginUs);
  const ends = results.map((result) => result.endUs);
  return {
    beginUs: begins.reduce((a, b) => (a < b ? a : b)),
    endUs: ends.reduce((a, b) => (a > b ? a : b)),
    macroblockCount: sum((result) => result.macroblockCount),
    bytes: sum((result) => result.bytes),
    logBytes: sum((result) => result.logBytes),
    findingCount: sum((result) => result.findingCount) + findingCount,
    logs: results.flatMap((result) => result.logs),
  };
}

/** VALIDATE as the coordinator does it: jobs, agents, notes at the destination, findings in views and events. */
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { findSets } from '../../../coordinator/destination/validation-subjects.ts';
import { planValidation } from '../../../coordinator/jobs/plan-validation.ts';
import type { StatementOf } from '../../../coordinator/sql/statements.ts';
import {
  ValidateProgressSchema,
  ValidateResultSchema,
  type ValidateTask,
} from '../../../proto/gen/holdfast/v1/agent_pb.ts';
import { openMedium } from '../../../storage-layout/media/open.ts';
import { readNotes } from '../../../storage-layout/records/notes.ts';
import { tree } from '../../../storage-layout/tree.ts';
import { CoordinatorInTest } from '../../support/coordinator-in-test.ts';
import { FakeAgent } from '../../support/fake-agent.ts';

const ROOT = { clusterName: 'c', clusterId: 1n };
const SET = { tenantId: 1001n, fullSetId: 1n, setId: 1n };
const VALIDATE: StatementOf<'validate'> = { kind: 'validate', tenants: ['orders'], wait: true };
const ONE_SET: StatementOf<'validate'> = { ...VALIDATE, object: { kind: 'backupSet', id: 1n } };

let directory: string;
let coordinator: CoordinatorInTest;
let agent: FakeAgent;
const seen: ValidateTask[] = [];

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-validate-'));
  await mkdir(join(directory, 'dest'));
  coordinator = await CoordinatorInTest.start(join(directory, 'state'));
  agent = new FakeAgent({ address: `127.0.0.1:${coordinator.port}`, tenant: 'orders', token: 'shared' });
  agent.options.validate = async (task) => await say(task);
  await coordinator.until('a leader', async () =>
    (await coordinator.view('dba_ob_partition_groups')).some((row) => row['role'] === 'LEADER'),
  );
  await coordinator.run({ kind: 'setParameter', name: 'backup_dest', value: `file://${directory}/dest` });
  await coordinator.run({ kind: 'archiveLog', tenants: ['orders'] });
  await coordinator.until('a round', async () => (await coordinator.roundState()) === 'DOING');
  await coordinator.run({ kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: true });
}, 60_000);

afterAll(async () => {
  await agent?.[Symbol.asyncDispose]();
  await coordinator?.[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
});

/** An agent that finds nothing; of a round it says how far it read. */
async function say(task: ValidateTask, findings: readonly object[] = []) {
  seen.push(task);
  const nowUs = BigInt(Date.now()) * 1000n;
  const log = task.subject.case === 'log' ? { logBytes: 500n } : { bytes: 1000n, macroblockCount: 4n };
  const logs =
    task.subject.case === 'log'
      ? [{ partitionGroup: task.partitionGroup, timeline: 1, begin: 0x3000000n, end: 0x3000200n }]
      : [];
  return create(ValidateResultSchema, {
    beginUs: nowUs,
    endUs: nowUs,
    ...log,
    logs,
    findings: findings.map((finding) => ({ ...finding })),
    findingCount: BigInt(findings.length),
  });
}

async function jobs(): Promise<Record<string, unknown>[]> {
  const rows = await coordinator.view('cdb_ob_backup_validation_job');
  return rows.toSorted((a, b) => Number(a['job_id']) - Number(b['job_id']));
}

async function notes(place: 'set' | 'round' = 'set', setId = 1n) {
  await using medium = await openMedium(`file://${directory}/dest`);
  const where =
    place === 'set'
      ? ({ kind: 'set', key: { ...SET, fullSetId: setId, setId } } as const)
      : ({ kind: 'round', key: { tenantId: 1001n, round: 1n } } as const);
  return await readNotes(medium, ROOT, where);
}

test('a whole tenant: a task for each set and round, notes at the destination, then FINISHED', async () => {
  await coordinator.run(VALIDATE);
  expect(await jobs()).toMatchObject([
    {
      tenant_name: 'orders',
      backup_set_id: 0,
      status: 'FINISHED',
      progress_percent: 100,
      task_count: 2,
      finish_task_count: 2,
      bytes_done: 1500,
      bytes_total: 1500,
      finding_count: 0,
      result: null,
    },
  ]);
  expect(seen.map(({ subject }) => subject)).toMatchObject([
    { case: 'set', value: { backupSetId: 1n, fullSetId: 1n } },
    { case: 'log', value: { round: 1n, until: { timeline: 1 }, checked: [] } },
  ]);
  expect(await notes()).toMatchObject([
    {
      jobId: BigInt(Number((await jobs())[0]?.['job_id'])),
      kind: { case: 'validated', value: { findingCount: 0n } },
    },
  ]);
  expect(await notes('round')).toMatchObject([{ kind: { value: { logs: [{ end: 0x3000200n }] } } }]);
  expect((await coordinator.view('cdb_ob_event_history')).map((row) => row['event'])).toContain(
    'validation_finished',
  );
}, 60_000);

test('MAX_AGE leaves out what was found right, and no more; without it all is read again', async () => {
  seen.length = 0;
  await coordinator.run({ ...VALIDATE, maxAge: '1d' });
  expect(seen.map(({ subject }) => subject)).toMatchObject([
    { case: 'log', value: { checked: [{ partitionGroup: 'p0', begin: 0x3000000n, end: 0x3000200n }] } },
  ]);
  expect((await jobs()).at(-1)).toMatchObject({ status: 'FINISHED', skipped: '1' });
  seen.length = 0;
  await coordinator.run({ ...ONE_SET, maxAge: '0s' });
  await coordinator.run(ONE_SET);
  expect(seen).toHaveLength(2);
  await expect(coordinator.run({ ...ONE_SET, maxAge: '30 lightyears' })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  });
}, 60_000);

test('what is gone fails the job with OB-9011; every finding is in the view, in an event and in the note', async () => {
  agent.options.validate = async (task) =>
    await say(task, [
      {
        code: 'DATA_CORRUPT',
        object: 'c/1/x/macro_block_1.2',
        offset: 4096n,
        message: 'c/1/x/macro_block_1.2 at offset 4096: wrong checksum',
        files: [
          {
            path: 'base/5/16384',
            databaseOid: 5,
            databaseName: 'shop',
            relFileNumber: 16384,
            macroblockCount: 1n,
          },
        ],
        fileCount: 1n,
        backupSetIds: [1n],
      },
      {
        code: 'BACKUP_FILE_NOT_EXIST',
        object: 'c/1/x/macro_block_1.3',
        offset: -1n,
        message: 'c/1/x/macro_block_1.3: the file is missing',
        backupSetIds: [1n],
      },
    ]);
  await expect(coordinator.run(ONE_SET)).rejects.toMatchObject({
    code: 'BACKUP_FILE_NOT_EXIST',
    message: expect.stringContaining('macro_block_1.3'),
    detail: expect.stringContaining('base/5/16384 (database "shop")'),
    hint: expect.stringContaining('CDB_OB_BACKUP_VALIDATION_FINDING'),
  });
  expect((await jobs()).at(-1)).toMatchObject({
    status: 'FAILED',
    backup_set_id: 1,
    finding_count: 2,
    result: 'BACKUP_FILE_NOT_EXIST',
  });
  expect(await coordinator.view('cdb_ob_backup_validation_finding')).toMatchObject([
    {
      result: 'DATA_CORRUPT',
      object: 'c/1/x/macro_block_1.2',
      object_offset: 4096,
      files: 'base/5/16384',
      databases: 'shop',
      relation_files: '16384',
      needed_by_backup_sets: '1',
    },
    { result: 'BACKUP_FILE_NOT_EXIST', object: 'c/1/x/macro_block_1.3', object_offset: null },
  ]);
  const events = await coordinator.view('cdb_ob_event_history');
  expect(events.filter((row) => row['event'] === 'validation_finding')).toHaveLength(2);
  expect((await notes()).at(-1)).toMatchObject({ kind: { value: { findingCount: 2n } } });
}, 60_000);

test('a set that was not right is not left out the next time', async () => {
  agent.options.validate = async (task) => await say(task);
  seen.length = 0;
  await coordinator.run({ ...ONE_SET, maxAge: '1d' });
  expect(seen).toHaveLength(1);
}, 60_000);

test('another coordinator with an empty catalog knows from the destination what was checked', async () => {
  await using other = await CoordinatorInTest.start(join(directory, 'other-state'));
  await using medium = await openMedium(`file://${directory}/dest`);
  const place = { medium, display: 'elsewhere', tenantId: 1001n };
  const sets = await findSets(other.context, place, new AbortController().signal);
  expect(planValidation(sets, [], 1n)).toEqual({ tasks: [], skipped: [1n] });
}, 60_000);

test('a set that does not exist is refused with OB-9046, pieces by name', async () => {
  await expect(
    coordinator.run({ ...VALIDATE, object: { kind: 'backupSet', id: 99n } }),
  ).rejects.toMatchObject({ code: 'INVALID_BACKUP_SET_ID' });
  await expect(
    coordinator.run({ ...VALIDATE, object: { kind: 'backupPiece', id: 1n } }),
  ).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
});

test('CANCEL VALIDATE ends the job; an ended one is refused with OB-9049, an unknown one with OB-4018', async () => {
  agent.options.validate = () => Promise.withResolvers<never>().promise;
  await coordinator.run({ ...VALIDATE, wait: false });
  const job = BigInt(Number((await jobs()).at(-1)?.['job_id']));
  await coordinator.until('a task that runs', async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).some((row) => row['status'] === 'RUNNING'),
  );
  await coordinator.run({ kind: 'cancelValidate', job });
  await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'CANCELLED');
  const cancel = (id: bigint) => coordinator.run({ kind: 'cancelValidate', job: id });
  await expect(cancel(job)).rejects.toMatchObject({ code: 'CANNOT_CANCEL_STOPPED_BACKUP' });
  await expect(cancel(987_654n)).rejects.toMatchObject({ code: 'ENTRY_NOT_EXIST' });
}, 60_000);

test('what was found before CANCEL VALIDATE is noted and told; a running task is as far as its agent says', async () => {
  const object = tree.macroBlock(ROOT, SET, 'p0', 1);
  agent.options.validate = async (task) =>
    task.subject.case === 'set'
      ? await say(task, [{ code: 'DATA_CORRUPT', object, message: 'flipped', backupSetIds: [1n] }])
      : await Promise.withResolvers<never>().promise;
  await coordinator.run({ ...VALIDATE, wait: false });
  const job = BigInt(Number((await jobs()).at(-1)?.['job_id']));
  const tasks = async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).filter((row) => row['job_id'] === Number(job));
  await coordinator.until('one task done, one running', async () => {
    const states = (await tasks()).map((row) => row['status']);
    return states.includes('SUCCEEDED') && states.includes('RUNNING');
  });
  await coordinator.context.catalog.transaction(async (tx) => {
    // Most of the round was found right not long ago: 100 bytes of it are read.
    await tx.query(
      `UPDATE holdfast.tasks SET spec = spec || '{"bytes": "10000"}', progress = '{"bytesDone": "60", "bytesTotal": "100"}'
       WHERE job_id = $1 AND state = 'RUNNING'`,
      [job],
    );
  });
  expect((await tasks()).find((row) => row['status'] === 'RUNNING')).toMatchObject({
    bytes_total: 100,
    progress_percent: 60,
  });
  await coordinator.run({ kind: 'cancelValidate', job });
  await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'CANCELLED');
  expect((await notes()).at(-1)).toMatchObject({ jobId: job, kind: { value: { findingCount: 1n } } });
  const told = (await coordinator.view('cdb_ob_event_history')).filter(
    (event) => event['event'] === 'validation_finding' && JSON.stringify(event).includes('flipped'),
  );
  expect(told).toHaveLength(1);
}, 60_000);

test('an agent that loses its task gets it again as another attempt, and the job ends', async () => {
  agent.options.validate = () => Promise.withResolvers<never>().promise;
  await coordinator.run({ ...ONE_SET, wait: false });
  await coordinator.until('a task that runs', async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).some((row) => row['status'] === 'RUNNING'),
  );
  agent.options.validate = async (task) => await say(task);
  agent.goAway();
  await agent.forget();
  agent.comeBack();
  await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'FINISHED');
  expect((await coordinator.view('cdb_ob_backup_validation_task')).map((row) => row['attempt'])).toContain(2);
}, 60_000);

test('what a lost attempt had found is noted when the next one is cancelled before it finds it again', async () => {
  let findingCount = 3n;
  agent.options.validate = (_, report) => {
    const bytesDone = findingCount === 0n ? 20n : 10n;
    report(create(ValidateProgressSchema, { bytesDone, bytesTotal: 100n, findingCount }));
    return Promise.withResolvers<never>().promise;
  };
  await coordinator.run({ ...ONE_SET, wait: false });
  const job = (await jobs()).at(-1)?.['job_id'];
  const tasks = async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).filter((row) => row['job_id'] === job);
  await coordinator.until('findings', async () => (await tasks()).some((row) => row['finding_count'] === 3));
  findingCount = 0n;
  agent.goAway();
  await agent.forget();
  agent.comeBack();
  await coordinator.until('the next attempt', async () =>
    (await tasks()).some((row) => row['attempt'] === 2 && row['bytes_done'] === 20),
  );
  await coordinator.run({ kind: 'cancelValidate', job: BigInt(Number(job)) });
  await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'CANCELLED');
  expect((await notes()).at(-1)).toMatchObject({
    jobId: BigInt(Number(job)),
    kind: { value: { findingCount: 3n } },
  });
  agent.options.validate = async (task) => await say(task);
  await coordinator.run(VALIDATE); // it is right after all
  expect((await notes()).at(-1)).toMatchObject({ kind: { value: { findingCount: 0n } } });
}, 60_000);

const DAMAGE = {
  code: 'DATA_CORRUPT',
  object: 'c/1/x/macro_block_1.2',
  offset: 4096n,
  message: 'c/1/x/macro_block_1.2 at offset 4096: wrong checksum',
};

test('a set that another set’s validation names as damaged is not left out, until it was read again', async () => {
  await coordinator.run({ kind: 'backup', mode: 'full', tenants: 'all', plusArchivelog: false, wait: true });
  agent.options.validate = async (task) => await say(task);
  await coordinator.run(VALIDATE);
  agent.options.validate = async (task) => await say(task, [{ ...DAMAGE, backupSetIds: [1n, 2n] }]);
  const second = { ...VALIDATE, object: { kind: 'backupSet', id: 2n } } as const;
  await expect(coordinator.run(second)).rejects.toMatchObject({ code: 'DATA_CORRUPT' });
  for (const setId of [1n, 2n])
    expect((await notes('set', setId)).at(-1)).toMatchObject({ kind: { value: { findingCount: 1n } } });
  agent.options.validate = async (task) => await say(task);
  seen.length = 0;
  await coordinator.run({ ...ONE_SET, maxAge: '1d' });
  await coordinator.run({ ...VALIDATE, maxAge: '1d' });
  expect(seen.map(({ subject }) => subject)).toMatchObject([
    { case: 'set', value: { backupSetId: 1n } },
    { case: 'set', value: { backupSetId: 2n } },
    { case: 'log' },
  ]);
  expect((await jobs()).at(-1)).toMatchObject({ status: 'FINISHED', skipped: '1' });
}, 60_000);

test('what was found before CANCEL VALIDATE is noted and told; what was read to its end is noted as right', async () => {
  agent.options.validate = async (task) => {
    if (task.subject.case === 'log') return await Promise.withResolvers<never>().promise;
    return await say(task, task.subject.value?.backupSetId === 1n ? [{ ...DAMAGE, backupSetIds: [1n] }] : []);
  };
  const before = (await notes('set', 2n)).length;
  await coordinator.run({ ...VALIDATE, wait: false });
  const job = BigInt(Number((await jobs()).at(-1)?.['job_id']));
  const tasks = async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).filter((row) => row['job_id'] === Number(job));
  await coordinator.until('the log is read', async () =>
    (await tasks()).some((row) => row['status'] === 'RUNNING' && row['log_archive_round'] === 1),
  );
  await coordinator.run({ kind: 'cancelValidate', job });
  await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'CANCELLED');
  expect((await jobs()).at(-1)).toMatchObject({ result: 'CANCELLED', finding_count: 1 });
  expect((await notes()).at(-1)).toMatchObject({ jobId: job, kind: { value: { findingCount: 1n } } });
  expect((await notes('set', 2n)).slice(before)).toMatchObject([{ kind: { value: { findingCount: 0n } } }]);
  expect((await notes('round')).at(-1)?.jobId).not.toBe(job);
  const told = (await coordinator.view('cdb_ob_event_history'))
    .toSorted((a, b) => Number(a['event_id']) - Number(b['event_id']))
    .map((row) => String(row['event']))
    .filter((event) => event.startsWith('validation_'));
  expect(told.slice(-3)).toEqual(['validation_started', 'validation_finding', 'validation_cancelled']);
  seen.length = 0;
  agent.options.validate = async (task) => await say(task);
  await coordinator.run({ ...ONE_SET, maxAge: '1d' });
  expect(seen).toHaveLength(1);
}, 60_000);

test('CANCEL VALIDATE ends without the destination, and says that what was found is not noted', async () => {
  agent.options.validate = async (task) => {
    if (task.subject.case === 'log') return await Promise.withResolvers<never>().promise;
    return await say(task, [{ ...DAMAGE, backupSetIds: [1n] }]);
  };
  await coordinator.run({ ...VALIDATE, wait: false });
  const job = BigInt(Number((await jobs()).at(-1)?.['job_id']));
  await coordinator.until('the log is read', async () =>
    (await coordinator.view('cdb_ob_backup_validation_task')).some(
      (row) => row['job_id'] === Number(job) && row['status'] === 'RUNNING' && row['log_archive_round'] === 1,
    ),
  );
  await rename(join(directory, 'dest'), join(directory, 'away'));
  try {
    await coordinator.run({ kind: 'cancelValidate', job });
    await coordinator.until('the end', async () => (await jobs()).at(-1)?.['status'] === 'CANCELLED');
  } finally {
    await rename(join(directory, 'away'), join(directory, 'dest'));
  }
  expect((await notes()).at(-1)?.jobId).not.toBe(job);
  const events = (await coordinator.view('cdb_ob_event_history')).filter(
    (row) => row['event'] === 'validation_cancelled',
  );
  expect(events.map((row) => row['message'])).toContainEqual(
    expect.stringMatching(/was cancelled; findings until then: 2; not noted at the destination: /),
  );
}, 60_000);

import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { resumeEvent } from '../../../coordinator/jobs/resume-event.ts';
import { BackupProgressSchema, type BackupResume } from '../../../proto/gen/holdfast/v1/agent_pb.ts';

const TASK = { task_id: 5n, job_id: 4n, tenant_id: 1001n, partition_group: 'p0', attempt: 2 };

function progress(resume?: Partial<Omit<BackupResume, '$typeName' | '$unknown'>>) {
  return create(BackupProgressSchema, resume === undefined ? {} : { resume });
}

test('what an attempt took over is told once', () => {
  const resumed = progress({ retry: 1, macroblocks: 40n, bytes: 83_886_080n });
  expect(resumeEvent(TASK, progress(), progress())).toBeUndefined();
  expect(resumeEvent(TASK, progress(), resumed)).toMatchObject({
    event: 'backup_resumed',
    severity: 'INFO',
    message:
      'attempt 2 of the backup of partition group p0 takes over 40 macroblocks, 83886080 bytes, of the attempt before',
  });
  expect(resumeEvent(TASK, resumed, resumed)).toBeUndefined();
});

test('why nothing was taken over is told, and of each attempt', () => {
  const before = progress({ retry: 1, macroblocks: 40n, bytes: 83_886_080n });
  const refused = progress({ retry: 2, refused: 'no log is archived' });
  expect(resumeEvent({ ...TASK, attempt: 3 }, before, refused)).toMatchObject({
    event: 'backup_not_resumed',
    severity: 'WARNING',
    message: 'attempt 3 of the backup of partition group p0 copies everything again: no log is archived',
  });
});

import { describe, expect, test } from 'vitest';
import { parseBackupLabel } from '../../../engine/postgres/backup-label.ts';
import { isError } from '../../../foundation/errors.ts';

const LABEL = `START WAL LOCATION: 16/B2000028 (file 0000000300000016000000B2)
CHECKPOINT LOCATION: 16/B2000080
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-01-02 03:04:05 UTC
LABEL: of: colons
START TIMELINE: 3
`;

describe('backup_label', () => {
  test('is read field by field', () => {
    expect(parseBackupLabel(Buffer.from(LABEL))).toEqual({
      startLsn: 0x16_b200_0028n,
      startSegment: '0000000300000016000000B2',
      checkpointLsn: 0x16_b200_0080n,
      startTimeline: 3,
      fromStandby: false,
      startTime: '2026-01-02 03:04:05 UTC',
      label: 'of: colons',
      incremental: false,
    });
  });

  test('of a standby and of an incremental backup is told apart', () => {
    const text = `${LABEL.replace('FROM: primary', 'FROM: standby')}INCREMENTAL FROM LSN: 0/5000028\n`;
    expect(parseBackupLabel(Buffer.from(text))).toMatchObject({ fromStandby: true, incremental: true });
  });

  test.each(['START WAL LOCATION', 'CHECKPOINT LOCATION', 'START TIMELINE', 'BACKUP FROM'])(
    'without %s is corrupt, and the error names it',
    (name) => {
      const text = LABEL.split('\n')
        .filter((line) => !line.startsWith(`${name}:`))
        .join('\n');
      expect(() => parseBackupLabel(Buffer.from(text))).toThrow(name);
    },
  );

  test('with an unreadable position is corrupt', () => {
    const text = LABEL.replace('16/B2000080', 'nowhere');
    expect(catchError(() => parseBackupLabel(Buffer.from(text)))).toSatisfy((error) =>
      isError(error, 'DATA_CORRUPT'),
    );
  });
});

function catchError(work: () => unknown): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

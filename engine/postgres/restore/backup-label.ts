/** What a restore reads in a backup_label. The file itself is laid down byte for byte as the stop function gave it. */
import { HoldfastError } from '../../../foundation/errors.ts';
import { type Lsn, parseLsn } from '../../../foundation/lsn.ts';

/**
 * Checks that `label` belongs to a backup that began at `start` and that a server will accept it. Throws DATA_CORRUPT
 * when it has no START WAL LOCATION, names another one, or is an incremental backup's (a server refuses to start with
 * such a label).
 */
export function checkBackupLabel(label: Uint8Array, start: Lsn): void {
  const text = Buffer.from(label).toString('latin1');
  const match = /^START WAL LOCATION: ([0-9A-F]{1,8}\/[0-9A-F]{1,8}) \(file [0-9A-F]{24}\)$/m.exec(text);
  if (match?.[1] === undefined) {
    throw new HoldfastError('DATA_CORRUPT', 'the backup_label has no START WAL LOCATION');
  }
  if (parseLsn(match[1]) !== start) {
    throw new HoldfastError('DATA_CORRUPT', `the backup_label begins at ${match[1]}, the backup does not`);
  }
  if (/^INCREMENTAL FROM /m.test(text)) {
    throw new HoldfastError('DATA_CORRUPT', 'the backup_label is that of an incremental backup');
  }
}

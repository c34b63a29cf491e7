/**
 * backup_manifest, so that PostgreSQL's own `pg_verifybackup` can referee a restore. Version 1 for PostgreSQL up to 16;
 * 17 and later read version 2, which adds the system identifier. The checksums are those taken when the backup read
 * the files, not those of the restored files.
 *
 * The file is JSON in the very layout that the server writes (backup_manifest.c), because the last line's SHA-256
 * covers all bytes before it. A CRC-32C is written as its four bytes in little-endian order; a file without one has none
 * of the two fields, as the server writes it without manifest checksums.
 */
import { createHash } from 'node:crypto';
import { formatLsn, type Lsn, type Timeline } from '../../../foundation/lsn.ts';

export type ManifestFile = {
  /** Relative to the data directory. */
  readonly path: string;
  readonly sizeBytes: bigint;
  readonly modifiedUs: bigint;
  /** Undefined: nobody has read all of the file at one time. Its size alone is checked then. */
  readonly crc32c: number | undefined;
};

export type ManifestFacts = {
  readonly major: number;
  readonly systemIdentifier: bigint;
  readonly timeline: Timeline;
  /** START WAL LOCATION and what the stop function returned. */
  readonly start: Lsn;
  readonly stop: Lsn;
};

/** Yields the manifest's text in pieces; nothing of the file list is kept. */
export async function* formatManifest(
  facts: ManifestFacts,
  files: AsyncIterable<ManifestFile>,
): AsyncGenerator<string> {
  const hash = createHash('sha256');
  const hashed = (text: string) => {
    hash.update(text);
    return text;
  };
  const version =
    facts.major >= 17
      ? `{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": ${facts.systemIdentifier},\n`
      : '{ "PostgreSQL-Backup-Manifest-Version": 1,\n';
  yield hashed(`${version}"Files": [`);
  let separator = '\n';
  for await (const file of files) {
    yield hashed(separator + formatFile(file));
    separator = ',\n';
  }
  yield hashed(
    `\n],\n"WAL-Ranges": [\n{ "Timeline": ${facts.timeline}, "Start-LSN": "${formatLsn(facts.start)}", ` +
      `"End-LSN": "${formatLsn(facts.stop)}" }\n],\n`,
  );
  yield `"Manifest-Checksum": "${hash.digest('hex')}"}\n`;
}

function formatFile(file: ManifestFile): string {
  const modified = new Date(Number(file.modifiedUs / 1000n)).toISOString();
  return (
    `{ "Path": ${JSON.stringify(file.path)}, "Size": ${file.sizeBytes}, ` +
    `"Last-Modified": "${modified.slice(0, 10)} ${modified.slice(11, 19)} GMT"${formatChecksum(file.crc32c)} }`
  );
}

function formatChecksum(crc32c: number | undefined): string {
  if (crc32c === undefined) return '';
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32LE(crc32c >>> 0);
  return `, "Checksum-Algorithm": "CRC32C", "Checksum": "${checksum.toString('hex')}"`;
}

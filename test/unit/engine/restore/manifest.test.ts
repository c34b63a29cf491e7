import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { checkBackupLabel } from '../../../../engine/postgres/restore/backup-label.ts';
import { formatManifest, type ManifestFile } from '../../../../engine/postgres/restore/manifest.ts';
import { parseLsn, toTimeline } from '../../../../foundation/lsn.ts';

async function text(major: number, files: readonly ManifestFile[]): Promise<string> {
  const facts = {
    major,
    systemIdentifier: 7_000_000_000_000_000_001n,
    timeline: toTimeline(1),
    start: parseLsn('0/2000028'),
    stop: parseLsn('0/2000100'),
  };
  const parts: string[] = [];
  for await (const part of formatManifest(
    facts,
    (async function* () {
      yield* files;
    })(),
  ))
    parts.push(part);
  return parts.join('');
}

const FILE = { path: 'base/1/2', sizeBytes: 8192n, modifiedUs: 1_700_000_000_123_456n, crc32c: 0x0102_03ff };

describe('a backup_manifest', () => {
  test('has the layout that the server writes, and a checksum over all lines before the last', async () => {
    const manifest = await text(15, [FILE, { ...FILE, path: 'PG_VERSION' }]);
    const lines = manifest.split('\n');
    expect(lines[0]).toBe('{ "PostgreSQL-Backup-Manifest-Version": 1,');
    expect(lines[2]).toBe(
      '{ "Path": "base/1/2", "Size": 8192, "Last-Modified": "2023-11-14 22:13:20 GMT", ' +
        '"Checksum-Algorithm": "CRC32C", "Checksum": "ff030201" },',
    );
    expect(manifest).toContain('{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }');
    const body = manifest.slice(0, manifest.indexOf('"Manifest-Checksum"'));
    const checksum = createHash('sha256').update(body).digest('hex');
    expect(manifest.endsWith(`"Manifest-Checksum": "${checksum}"}\n`)).toBe(true);
    expect(JSON.parse(manifest)['Files']).toHaveLength(2);
  });

  test('from 17 on is of version 2 and names the system', async () => {
    const manifest = await text(17, []);
    expect(manifest.split('\n').slice(0, 2)).toEqual([
      '{ "PostgreSQL-Backup-Manifest-Version": 2,',
      '"System-Identifier": 7000000000000000001,',
    ]);
    expect(JSON.parse(manifest)['Files']).toEqual([]);
  });
});

describe('a backup_label', () => {
  const label = 'START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n';
  test('of another start, of an increment, or without a start is refused', () => {
    const start = parseLsn('0/2000028');
    checkBackupLabel(Buffer.from(label), start);
    expect(() => checkBackupLabel(Buffer.from(label), parseLsn('0/3000028'))).toThrow(/begins at 0\/2000028/);
    expect(() => checkBackupLabel(Buffer.from(`${label}INCREMENTAL FROM LSN: 0/1\n`), start)).toThrow(
      /incremental/,
    );
    expect(() => checkBackupLabel(Buffer.from('x'), start)).toThrow(/no START WAL LOCATION/);
  });
});

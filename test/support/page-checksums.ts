/** What pg_checksums does to a server that is stopped, for servers that come without that program. */
import { open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CONTROL_FILE_PATH } from '../../engine/postgres/control-file.ts';
import { PAGE_BYTES, pageChecksum } from '../../engine/postgres/pages.ts';
import { firstBlockOf, parseRelationPath } from '../../engine/postgres/relation-files.ts';
import { crc32c } from '../../storage-layout/crc32c.ts';

const CHECKSUM_AT = 8; // pd_checksum
const UPPER_AT = 14; // pd_upper: 0 in a page that was never initialised

/** `--disable`: pages keep their checksums, nobody looks at them. */
export async function disableChecksums(dataDirectory: string): Promise<void> {
  await noteChecksums(dataDirectory, 0);
}

/** `--enable`: every page of every relation gets its checksum. */
export async function enableChecksums(dataDirectory: string): Promise<void> {
  for (const path of await relationPaths(dataDirectory)) await writeChecksums(dataDirectory, path);
  await noteChecksums(dataDirectory, 1);
}

async function noteChecksums(dataDirectory: string, version: number): Promise<void> {
  const path = join(dataDirectory, CONTROL_FILE_PATH);
  const bytes = await readFile(path);
  bytes.writeUInt32LE(version, 252); // data_checksum_version
  const crcAt = bytes.readUInt32LE(8) >= 1800 ? 292 : 288; // pg_control_version
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, crcAt)), crcAt);
  await writeFile(path, bytes);
}

async function writeChecksums(dataDirectory: string, path: string): Promise<void> {
  await using file = await open(join(dataDirectory, path), 'r+');
  const bytes = await file.readFile();
  const firstBlock = firstBlockOf(path);
  for (let at = 0; at + PAGE_BYTES <= bytes.length; at += PAGE_BYTES) {
    if (bytes.readUInt16LE(at + UPPER_AT) === 0) continue;
    const page = bytes.subarray(at, at + PAGE_BYTES);
    bytes.writeUInt16LE(pageChecksum(page, firstBlock + at / PAGE_BYTES), at + CHECKSUM_AT);
  }
  await file.write(bytes, 0, bytes.length, 0);
}

/** Relative to the data directory; those in tablespaces by way of `pg_tblspc`. */
async function relationPaths(dataDirectory: string): Promise<readonly string[]> {
  const spaces = (await readdir(join(dataDirectory, 'pg_tblspc'))).map((space) => `pg_tblspc/${space}`);
  const paths: string[] = [];
  for (const top of ['base', 'global', ...spaces])
    for (const name of await readdir(join(dataDirectory, top), { recursive: true }))
      paths.push(`${top}/${name}`);
  return paths.filter((path) => parseRelationPath(path) !== undefined);
}

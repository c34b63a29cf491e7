/**
 * Which data keys files are encrypted under. A medium may carry a ring (media/with-keys.ts); whoever writes or reads a file
 * of several records asks it for the file's keys. Files below a directory that has keys must be encrypted: a plain one
 * there was put in its place.
 */
import { randomBytes } from 'node:crypto';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Medium } from '../media/medium.ts';
import { type DecodedRecord, decodeFileHeader, decodeRecord, encodeFileHeader } from '../records/framing.ts';
import { corrupt, HEADER_BYTES, type RecordSource } from '../records/header.ts';
import type { RecordType } from '../records/types.ts';
import { FileCipher } from './cipher.ts';

export const DATA_KEY_ID_BYTES = 16;
/** A file header with its record header. */
const FILE_HEAD_BYTES = HEADER_BYTES + 64;
const KEPT_CIPHERS = 1024;

/** A data key as it is used; plain data, so that it can be given to a worker thread. Never logged, never shown. */
export type DataKey = {
  /** Of the files that it is for, without trailing slash. */
  readonly directory: string;
  /** 32 hexadecimal digits. */
  readonly id: string;
  readonly key: Uint8Array;
  /** New files of the directory are encrypted under it. */
  readonly writes: boolean;
};

export interface KeyRing {
  /** The known keys of the directories that the file is below; empty: it is plain, or nothing opens it. */
  keysFor(file: string, signal?: AbortSignal): Promise<readonly DataKey[]>;
}

/** A ring of keys that are known beforehand. */
export function ringOf(keys: readonly DataKey[]): KeyRing {
  return {
    keysFor: async (file) => keys.filter(({ directory }) => file.startsWith(`${directory}/`)),
  };
}

/** The first record of a new file, and what its other records are sealed with; undefined: they are plain. */
export async function beginFile(
  medium: Medium,
  file: string,
  contents: RecordType,
  signal?: AbortSignal,
): Promise<{ readonly header: Buffer; readonly cipher: FileCipher | undefined }> {
  const keys = (await medium.keys?.keysFor(file, signal)) ?? [];
  const key = keys.find(({ writes }) => writes);
  if (key !== undefined) return beginEncryptedFile(key, contents);
  if (keys.length > 0)
    throw new HoldfastError('INTERNAL', `${file} would be written plain where files are encrypted`);
  return { header: encodeFileHeader(contents), cipher: undefined };
}

/** `fileId`: 16 random bytes. */
export function beginEncryptedFile(
  key: Pick<DataKey, 'id' | 'key'>,
  contents: RecordType,
  fileId: Uint8Array = randomBytes(16),
): { readonly header: Buffer; readonly cipher: FileCipher } {
  const header = encodeFileHeader(contents, fileId, Buffer.from(key.id, 'hex'));
  return { header, cipher: new FileCipher(key.key, fileId, header.subarray(HEADER_BYTES)) };
}

/**
 * What opens a file's records, after its first; undefined for a plain file. Throws BACKUP_INVALID_PASSWORD when the file's
 * key is not known, DATA_CORRUPT for a plain file, or one of another key, where files are encrypted, and what decodeFileHeader throws.
 */
export async function cipherOf(
  medium: Medium,
  first: DecodedRecord,
  source: RecordSource,
  signal?: AbortSignal,
): Promise<FileCipher | undefined> {
  const { fileId, keyId } = decodeFileHeader(first, source);
  const keys = (await medium.keys?.keysFor(source.file, signal)) ?? [];
  if (keyId === undefined) {
    if (keys.length > 0) throw corrupt(source, 0, 'a plain file where files are encrypted');
    return undefined;
  }
  const id = Buffer.from(keyId).toString('hex');
  const key = keys.find((each) => each.id === id);
  if (key === undefined && keys.length > 0)
    throw corrupt(source, 0, 'the file is encrypted under a key that nothing else here is');
  if (key === undefined)
    throw new HoldfastError(
      'BACKUP_INVALID_PASSWORD',
      `${source.file} is encrypted, and its key is not known`,
    );
  return new FileCipher(key.key, fileId, first.payload);
}

/**
 * Whether a file of several records can be read when it is copied, as it is, from `from` to `to`, and the id of its data key;
 * undefined: it is plain.
 */
export async function opensAt(
  medium: Medium,
  from: string,
  to: string,
  signal?: AbortSignal,
): Promise<{ readonly opens: boolean; readonly keyId: string | undefined }> {
  const here = (await medium.keys?.keysFor(from, signal)) ?? [];
  const there = (await medium.keys?.keysFor(to, signal)) ?? [];
  if (here.length + there.length === 0) return { opens: true, keyId: undefined };
  const head = await medium.readRange(from, 0, FILE_HEAD_BYTES, undefined, signal);
  const source = { file: from };
  const { keyId: bytes } = decodeFileHeader(decodeRecord(head, 0, source), source);
  if (bytes === undefined) return { opens: there.length === 0, keyId: undefined };
  const keyId = Buffer.from(bytes).toString('hex');
  return { opens: there.some(({ id }) => id === keyId), keyId };
}

/** The ciphers of the files of a medium, for readers that go to a record directly. */
export class FileCiphers {
  readonly #medium: Medium;
  readonly #ciphers = new Map<string, Promise<FileCipher | undefined>>();

  constructor(medium: Medium) {
    this.#medium = medium;
  }

  /** As `cipherOf`. Reads nothing where no file is encrypted. */
  async of(file: string, signal?: AbortSignal): Promise<FileCipher | undefined> {
    const known = this.#ciphers.get(file);
    if (known !== undefined) return await known;
    if (this.#ciphers.size >= KEPT_CIPHERS) this.#ciphers.clear();
    const opening = this.#open(file, signal);
    this.#ciphers.set(file, opening);
    opening.catch(() => this.#ciphers.delete(file)); // whoever waits for it sees the error
    return await opening;
  }

  async #open(file: string, signal: AbortSignal | undefined): Promise<FileCipher | undefined> {
    return await readFileCipher(this.#medium, file, signal);
  }
}

/** The cipher of one file, from its first record. */
export async function readFileCipher(
  medium: Medium,
  file: string,
  signal?: AbortSignal,
): Promise<FileCipher | undefined> {
  const keys = (await medium.keys?.keysFor(file, signal)) ?? [];
  if (keys.length === 0) return undefined;
  const head = await medium.readRange(file, 0, FILE_HEAD_BYTES, undefined, signal);
  const source = { file };
  return await cipherOf(medium, decodeRecord(head, 0, source), source, signal);
}

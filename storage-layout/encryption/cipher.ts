/**
 * How the records of one file are encrypted: AES-256-GCM under a key that is the file's alone.
 *
 *   file key         HKDF-SHA-256(data key, salt: the file id, info: the payload of the file header), 32 bytes
 *   nonce            the record's ordinal in its file (4 bytes, little-endian), then 8 zero bytes
 *   associated data  the file id, then the record's header with its two checksums as zero
 *   stored data      the ciphertext, then the tag of 16 bytes
 *
 * The header has the record's type, lengths and ordinal, and the type's own fields (a macroblock's file and block number,
 * a log block's position). So a record that stands at another place, or in another file, does not open. An ordinal is
 * never used twice: files are written from front to end, and no more after a failure.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from 'node:crypto';

export const KEY_BYTES = 32;
export const TAG_BYTES = 16;
const ALGORITHM = 'aes-256-gcm';
const NONCE_BYTES = 12;
/** node:crypto answers with a new buffer; larger ones cost more in page faults than the encryption itself. */
const STEP_BYTES = 256 * 1024;
/** Of a header: both checksums, which are computed over what is encrypted. */
const CHECKSUM_PLACES = [12, 24] as const;

/** What seals one record of a file. */
export type Seal = { readonly cipher: FileCipher; readonly ordinal: number };

export class FileCipher {
  readonly #fileKey: Uint8Array;
  readonly #fileId: Uint8Array;

  /** `fileHeader`: the payload of the file's first record. */
  constructor(dataKey: Uint8Array, fileId: Uint8Array, fileHeader: Uint8Array) {
    this.#fileKey = new Uint8Array(hkdfSync('sha256', dataKey, fileId, fileHeader, KEY_BYTES));
    this.#fileId = Uint8Array.from(fileId);
  }

  /** Encrypts `data` to `into` from `offset` on, where there is room for 16 bytes more than the data has. */
  seal(header: Uint8Array, ordinal: number, data: Uint8Array, into: Buffer, offset: number): void {
    const cipher = createCipheriv(ALGORITHM, this.#fileKey, nonceOf(ordinal));
    cipher.setAAD(this.#associatedData(header));
    let position = offset;
    for (let begin = 0; begin < data.length; begin += STEP_BYTES) {
      const part = cipher.update(data.subarray(begin, begin + STEP_BYTES));
      into.set(part, position);
      position += part.length;
    }
    cipher.final();
    into.set(cipher.getAuthTag(), position);
  }

  /** Decrypts `coded` (with its tag) to the beginning of `into`. False when it is not what was sealed. */
  open(header: Uint8Array, ordinal: number, coded: Uint8Array, into: Uint8Array): boolean {
    const dataBytes = coded.length - TAG_BYTES;
    if (dataBytes < 0) return false;
    const decipher = createDecipheriv(ALGORITHM, this.#fileKey, nonceOf(ordinal));
    decipher.setAAD(this.#associatedData(header));
    decipher.setAuthTag(coded.subarray(dataBytes));
    for (let begin = 0; begin < dataBytes; begin += STEP_BYTES)
      into.set(decipher.update(coded.subarray(begin, Math.min(begin + STEP_BYTES, dataBytes))), begin);
    try {
      decipher.final();
      return true;
    } catch {
      return false; // the tag is wrong: it fails for no other reason
    }
  }

  #associatedData(header: Uint8Array): Buffer {
    const data = Buffer.concat([this.#fileId, header]);
    for (const place of CHECKSUM_PLACES) data.writeUInt32LE(0, this.#fileId.length + place);
    return data;
  }
}

/** Undefined without a cipher: the record is plain. */
export function sealOf(cipher: FileCipher | undefined, ordinal: number): Seal | undefined {
  return cipher === undefined ? undefined : { cipher, ordinal };
}

function nonceOf(ordinal: number): Buffer {
  const nonce = Buffer.alloc(NONCE_BYTES);
  nonce.writeUInt32LE(ordinal, 0);
  return nonce;
}

/**
 * What is inside a record: block references, main data, origin and top-level transaction (PostgreSQL: DecodeXLogRecord).
 * Behind the record header come small headers, then the data they announce in the same order, main data last:
 *
 *   id 0 to 32   fork_flags u8, data length u16
 *                [image:  length u16, hole offset u16, bimg_info u8, [hole length u16 if compressed with a hole]]
 *                [unless same relation as before: tablespace u32, database u32, relation u32]
 *                block u32
 *   id 252       top-level transaction id u32
 *   id 253       replication origin u16
 *   id 254, 255  length of the main data, u32 or u8; the last header
 *
 * bimg_info changed in 15: bit 0x02 was "compressed" and became "apply".
 * Data pages are 8192 bytes.
 */
import { assert } from '../../../foundation/assert.ts';
import type { HoldfastError } from '../../../foundation/errors.ts';
import { unreadable, type WalVersion } from './page.ts';
import { RECORD_HEADER_BYTES, type RecordView } from './record.ts';

export const DATA_PAGE_BYTES = 8192;
export const FORK = { main: 0, fsm: 1, vm: 2, init: 3 } as const;

const MAX_BLOCK_ID = 32;
const BLOCK_ID = { topLevelXid: 252, origin: 253, longData: 254, shortData: 255 } as const;
const FORK_MASK = 0x0f;
const HAS_IMAGE = 0x10;
const HAS_DATA = 0x20;
const WILL_INIT = 0x40;
const SAME_RELATION = 0x80;
const IMAGE_HAS_HOLE = 0x01;

/** One block reference, moved from record to record: good until the next `decode`. */
export class BlockView {
  id = 0;
  flags = 0;
  tablespace = 0;
  database = 0;
  relation = 0;
  block = 0;
  /** Into the record's bytes; 0 with length 0 when there is none. */
  imageOffset = 0;
  imageBytes = 0;
  /** Raw bimg_info; its meaning depends on the version. */
  imageInfo = 0;
  holeOffset = 0;
  holeBytes = 0;
  dataOffset = 0;
  dataBytes = 0;

  get fork(): number {
    return this.flags & FORK_MASK;
  }

  get hasImage(): boolean {
    return (this.flags & HAS_IMAGE) !== 0;
  }

  get hasData(): boolean {
    return (this.flags & HAS_DATA) !== 0;
  }

  get willInit(): boolean {
    return (this.flags & WILL_INIT) !== 0;
  }
}

/** The bits of bimg_info that mean a compressed image. */
export function compressedImageBits(version: WalVersion): number {
  return version >= 15 ? 0x1c : 0x02;
}

/** The bit of bimg_info that says that replay puts the image back (otherwise it is there to compare). */
export function applyImageBit(version: WalVersion): number {
  return version >= 15 ? 0x02 : 0x04;
}

/** Decodes one record at a time into fields that it owns; nothing is allocated and nothing copied. */
export class RecordDecoder {
  /** The first `blockCount` are the record's, in the order of their ids. */
  readonly blocks: readonly BlockView[] = Array.from({ length: MAX_BLOCK_ID + 1 }, () => new BlockView());
  blockCount = 0;
  mainOffset = 0;
  mainBytes = 0;
  /** Replication origin; 0: none. */
  origin = 0;
  /** Transaction that the record's subtransaction belongs to; 0: not said. */
  topLevelXid = 0;

  #view: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;
  #record: RecordView | undefined;
  #dataBytes = 0;

  /** Throws WAL_UNREADABLE when the record's parts do not fit together (whatever its checksum said). */
  decode(record: RecordView): void {
    this.#record = record;
    this.#view = record.view;
    this.#at = record.offset + RECORD_HEADER_BYTES;
    this.#dataBytes = 0;
    this.blockCount = 0;
    this.mainBytes = 0;
    this.origin = 0;
    this.topLevelXid = 0;
    const end = record.offset + record.lengthBytes;
    this.#readHeaders(end);
    if (end - this.#at !== this.#dataBytes) throw this.#fail('its parts are not as long as it is');
    this.#placeData();
  }

  #readHeaders(end: number): void {
    const view = this.#view;
    while (end - this.#at > this.#dataBytes) {
      const id = view.getUint8(this.#at);
      this.#at += 1;
      if (id <= MAX_BLOCK_ID) {
        this.#readBlock(id, end);
        continue;
      }
      if (id === BLOCK_ID.shortData || id === BLOCK_ID.longData) {
        this.#need(id === BLOCK_ID.shortData ? 1 : 4, end);
        this.mainBytes = id === BLOCK_ID.shortData ? view.getUint8(this.#at) : view.getUint32(this.#at, true);
        this.#at += id === BLOCK_ID.shortData ? 1 : 4;
        this.#dataBytes += this.mainBytes;
        return;
      }
      if (id === BLOCK_ID.origin) {
        this.#need(2, end);
        this.origin = view.getUint16(this.#at, true);
        this.#at += 2;
      } else if (id === BLOCK_ID.topLevelXid) {
        this.#need(4, end);
        this.topLevelXid = view.getUint32(this.#at, true);
        this.#at += 4;
      } else {
        throw this.#fail(`block id ${id} is not known`);
      }
    }
  }

  #readBlock(id: number, end: number): void {
    const view = this.#view;
    const before = this.blocks[this.blockCount - 1];
    if (before !== undefined && before.id >= id) throw this.#fail(`block id ${id} follows ${before.id}`);
    const block = this.blocks[this.blockCount];
    assert(block !== undefined, 'ascending block ids up to 32 are at most 33');
    this.#need(3, end);
    block.id = id;
    const flags = view.getUint8(this.#at);
    block.flags = flags;
    block.dataBytes = view.getUint16(this.#at + 1, true);
    block.dataOffset = 0;
    block.imageOffset = 0;
    block.imageBytes = 0;
    block.imageInfo = 0;
    block.holeOffset = 0;
    block.holeBytes = 0;
    this.#at += 3;
    if (((flags & HAS_DATA) !== 0) !== block.dataBytes > 0)
      throw this.#fail(`block ${id} has ${block.dataBytes} bytes of data against its flag`);
    this.#dataBytes += block.dataBytes;
    if ((flags & HAS_IMAGE) !== 0) this.#readImage(block, end);
    if ((flags & SAME_RELATION) === 0) {
      this.#need(16, end);
      block.tablespace = view.getUint32(this.#at, true);
      block.database = view.getUint32(this.#at + 4, true);
      block.relation = view.getUint32(this.#at + 8, true);
      this.#at += 12;
    } else {
      if (before === undefined) throw this.#fail(`block ${id} is of the relation of none before it`);
      this.#need(4, end);
      block.tablespace = before.tablespace;
      block.database = before.database;
      block.relation = before.relation;
    }
    block.block = view.getUint32(this.#at, true);
    this.#at += 4;
    this.blockCount += 1;
  }

  #readImage(block: BlockView, end: number): void {
    const view = this.#view;
    this.#need(5, end);
    block.imageBytes = view.getUint16(this.#at, true);
    block.holeOffset = view.getUint16(this.#at + 2, true);
    block.imageInfo = view.getUint8(this.#at + 4);
    this.#at += 5;
    this.#dataBytes += block.imageBytes;
    const version = this.#record?.version;
    if (version === undefined)
      throw this.#fail('a page image cannot be read before the first page header has told the version');
    const compressed = (block.imageInfo & compressedImageBits(version)) !== 0;
    const hole = (block.imageInfo & IMAGE_HAS_HOLE) !== 0;
    if (compressed && hole) {
      this.#need(2, end);
      block.holeBytes = view.getUint16(this.#at, true);
      this.#at += 2;
    } else if (!compressed) {
      block.holeBytes = DATA_PAGE_BYTES - block.imageBytes;
    }
    const fits = hole
      ? block.holeOffset > 0 && block.holeBytes > 0 && block.holeOffset + block.holeBytes <= DATA_PAGE_BYTES
      : block.holeOffset === 0 && block.holeBytes === 0;
    if (!fits || block.imageBytes > DATA_PAGE_BYTES || (compressed && block.imageBytes === DATA_PAGE_BYTES))
      throw this.#fail(`the image of block ${block.id} is no ${DATA_PAGE_BYTES}-byte page's`);
  }

  #placeData(): void {
    let at = this.#at;
    for (let index = 0; index < this.blockCount; index += 1) {
      const block = this.blocks[index];
      assert(block !== undefined, 'blockCount counts blocks');
      if (block.imageBytes > 0) {
        block.imageOffset = at;
        at += block.imageBytes;
      }
      if (block.dataBytes > 0) {
        block.dataOffset = at;
        at += block.dataBytes;
      }
    }
    this.mainOffset = at;
  }

  #need(lengthBytes: number, end: number): void {
    if (end - this.#at < lengthBytes) throw this.#fail('it ends inside a block header');
  }

  #fail(what: string): HoldfastError {
    const record = this.#record;
    return unreadable(record?.begin ?? 0n, record?.version, `a record cannot be decoded: ${what}`);
  }
}

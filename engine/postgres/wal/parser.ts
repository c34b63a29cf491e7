/**
 * The push parser of raw WAL: takes bytes in pieces of any size, hands out whole, checked records.
 *
 * Invariants
 *   1. The records handed out do not depend on how the bytes are cut into pushes.
 *   2. Every page header is checked (page.ts) and every record: length, resource manager, link to the record before,
 *      CRC-32C (unless the caller vouches for it). What fails ends the parser: this push and all later ones throw the same error.
 *   3. A record that lies inside one page and one push is handed out where it lies; others are put together in one
 *      buffer that is used again. Nothing is allocated per record.
 *   4. A record is whole when its padding to 8 bytes is there too: `endOfRecords` never passes `position`.
 *
 * Positions are numbers counted from `#base`, the start of the segment in which the log was entered.
 *
 *                     ┌────────────── page header (may come in pieces) ───────────────┐
 *   mode  records ────┤ record goes past the page or the push ─► assemble ─► records  │
 *         (entry at a │ page that continues a record) ─► skipRecord ─► records        │
 *         records ─► XLOG_SWITCH, or entry in the zeros after one ─► skipSegment ─► records
 *         assemble ─► page that overwrites the continuation ─► records (the part is void)
 */
import { assert } from '../../../foundation/assert.ts';
import { type HoldfastError, toHoldfastError } from '../../../foundation/errors.ts';
import { formatLsn, type Lsn, segmentStart, type Timeline, toLsn } from '../../../foundation/lsn.ts';
import {
  LONG_HEADER_BYTES,
  PAGE_BYTES,
  PAGE_INFO,
  type PageHeader,
  readPageHeader,
  SHORT_HEADER_BYTES,
  unreadable,
  type WalVersion,
} from './page.ts';
import {
  INFO_RMGR_MASK,
  isRmgr,
  MAX_RECORD_BYTES,
  RECORD_HEADER_BYTES,
  type RecordSink,
  RecordView,
  RMGR,
  XLOG_INFO,
} from './record.ts';
import { recordChecksumHolds } from './record-checksum.ts';

export type WalParserOptions = {
  readonly segmentSizeBytes: number;
  readonly timeline: Timeline;
  /** Checked against the long page headers, when given. */
  readonly systemIdentifier: bigint | undefined;
  /**
   * Where the first push begins: a record's beginning, a page's (a continued record at its head is skipped), or
   * somewhere in the zeros behind a switch. A multiple of 8, not inside a page header.
   */
  readonly begin: Lsn;
  /** The version, where the log is entered inside a page, before any page header tells. */
  readonly version?: WalVersion;
  /** Default true: the CRC-32C of every record. Everything else is checked in any case. */
  readonly checksRecords?: boolean;
};

const PARTIAL_BUFFER_BYTES = 64 * 1024;
const PARTIAL_BUFFER_KEPT_BYTES = 16 * 1024 * 1024;

type Mode = 'records' | 'assemble' | 'skipRecord' | 'skipSegment';

export class WalParser {
  readonly #options: WalParserOptions;
  readonly #sink: RecordSink;
  readonly #base: bigint;
  readonly #baseHigh: number;
  readonly #baseLow: number;
  readonly #entry: number;
  readonly #record = new RecordView();

  #mode: Mode = 'records';
  #stopped = false;
  #failure: HoldfastError | undefined;
  #version: WalVersion | undefined;
  #pageTimeline = 0;
  #position: number;
  #endOfRecords: number;
  /** Begin of the last whole record; NaN before the first. */
  #previousBegin = Number.NaN;

  readonly #header = new Uint8Array(LONG_HEADER_BYTES);
  #headerFill = 0;

  #partial = new Uint8Array(PARTIAL_BUFFER_BYTES);
  #partialView = new DataView(this.#partial.buffer);
  #partialLength = 0;
  #partialBegin = 0;

  /** skipRecord: bytes still to skip, the padding of `#skipPadding` bytes included. */
  #skipLeft = 0;
  #skipPadding = 0;
  /** skipSegment: entered without a switch seen, so every byte must be zero. */
  #zerosOnly = false;

  constructor(options: WalParserOptions, sink: RecordSink) {
    this.#options = options;
    this.#sink = sink;
    this.#base = segmentStart(options.begin, options.segmentSizeBytes);
    this.#baseHigh = Number(this.#base >> 32n);
    this.#baseLow = Number(this.#base & 0xffff_ffffn);
    this.#entry = Number(options.begin - this.#base);
    this.#position = this.#entry;
    this.#endOfRecords = this.#entry;
    this.#version = options.version;
    const inPage = this.#entry % PAGE_BYTES;
    assert(
      this.#entry % 8 === 0,
      `the log is entered at a multiple of 8, not at ${formatLsn(options.begin)}`,
    );
    assert(
      inPage === 0 || inPage >= this.#headerBytesAt(this.#entry - inPage),
      `the log is not entered inside a page header, at ${formatLsn(options.begin)}`,
    );
    this.#record.base = this.#base;
  }

  /** End of everything pushed. */
  get position(): Lsn {
    return this.#lsn(this.#position);
  }

  /** End of the last whole record, padding included; where the log was entered before the first. */
  get endOfRecords(): Lsn {
    return this.#lsn(this.#endOfRecords);
  }

  /**
   * Where the record that `position` cuts began; undefined at a record border or in padding. A record that was
   * already begun where the log was entered counts from there.
   */
  get unfinishedRecordBegin(): Lsn | undefined {
    if (this.#mode === 'assemble') return this.#lsn(this.#partialBegin);
    return this.#mode === 'skipRecord' ? this.#lsn(this.#entry) : undefined;
  }

  /** Undefined until a page header has been seen, unless it was given. */
  get version(): WalVersion | undefined {
    return this.#version;
  }

  /** True once the sink has said that it wants no more. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /**
   * The next bytes; they are not kept. `begin` must be `position`. After the sink has stopped the parser, pushes do
   * nothing. Throws WAL_UNREADABLE and SYSTEM_IDENTIFIER_MISMATCH; neither may be retried.
   */
  push(begin: Lsn, data: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#stopped) return;
    assert(
      begin === this.position,
      `log pushed at ${formatLsn(begin)} goes on at ${formatLsn(this.position)}`,
    );
    try {
      this.#consume(data);
    } catch (error) {
      this.#failure = toHoldfastError(error);
      throw this.#failure;
    }
  }

  #consume(data: Uint8Array): void {
    const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
    const dataPosition = this.#position;
    let at = 0;
    while (at < data.length && !this.#stopped) {
      const inPage = this.#position % PAGE_BYTES;
      if (this.#mode === 'skipSegment') {
        at = this.#skipSegment(data, at);
      } else if (inPage === 0 || this.#headerFill > 0) {
        at = this.#takeHeader(data, view, at);
      } else {
        const limit = Math.min(data.length, at + PAGE_BYTES - inPage);
        if (this.#mode === 'records') at = this.#takeRecords(data, view, at, limit, dataPosition);
        else if (this.#mode === 'assemble') at = this.#assemble(data, at, limit);
        else at = this.#skipRecord(at, limit);
      }
      this.#position = dataPosition + at;
      this.#leaveSkippedSegment();
    }
  }

  // ---- pages ------------------------------------------------------------------------------------------------------

  #takeHeader(data: Uint8Array, view: DataView, at: number): number {
    const pageBegin = this.#position - this.#headerFill;
    const headerBytes = this.#headerBytesAt(pageBegin);
    if (pageBegin === this.#entry && headerBytes === SHORT_HEADER_BYTES && data[at] === 0) {
      this.#enterZeros(); // no page magic has a low byte of 0
      return at;
    }
    if (this.#headerFill === 0 && data.length - at >= headerBytes) {
      this.#enterPage(this.#readHeader(view, at, pageBegin), pageBegin);
      return at + headerBytes;
    }
    const count = Math.min(headerBytes - this.#headerFill, data.length - at);
    this.#header.set(data.subarray(at, at + count), this.#headerFill);
    this.#headerFill += count;
    if (this.#headerFill === headerBytes) {
      this.#headerFill = 0;
      this.#enterPage(this.#readHeader(new DataView(this.#header.buffer), 0, pageBegin), pageBegin);
    }
    return at + count;
  }

  #readHeader(view: DataView, offset: number, pageBegin: number): PageHeader {
    return readPageHeader(view, offset, {
      address: this.#base + BigInt(pageBegin),
      segmentSizeBytes: this.#options.segmentSizeBytes,
      timeline: this.#options.timeline,
      previousTimeline: this.#pageTimeline,
      version: this.#version,
      systemIdentifier: this.#options.systemIdentifier,
    });
  }

  #enterPage(header: PageHeader, pageBegin: number): void {
    this.#version = header.version;
    this.#pageTimeline = header.timeline;
    const overwrites = (header.info & PAGE_INFO.overwritesContinuation) !== 0;
    switch (this.#mode) {
      case 'assemble':
        if (overwrites) this.#mode = 'records';
        else this.#checkContinuation(header, this.#partialTotal() - this.#partialLength, this.#partialBegin);
        break;
      case 'skipRecord':
        if (overwrites) this.#mode = 'records';
        else this.#checkContinuation(header, this.#skipLeft - this.#skipPadding, this.#entry);
        break;
      default:
        if (header.remainingBytes === 0) break;
        if (pageBegin !== this.#entry)
          throw this.#unreadable(pageBegin, 'the page continues a record, but none is unfinished before it');
        this.#mode = 'skipRecord';
        this.#skipLeft = alignUp(header.remainingBytes);
        this.#skipPadding = this.#skipLeft - header.remainingBytes;
    }
  }

  #checkContinuation(header: PageHeader, remainingBytes: number, recordBegin: number): void {
    if (header.remainingBytes === remainingBytes) return;
    throw this.#unreadable(
      recordBegin,
      `${remainingBytes} bytes of the record are missing, but the next page continues one of ${header.remainingBytes}`,
    );
  }

  #headerBytesAt(pageBegin: number): number {
    return pageBegin % this.#options.segmentSizeBytes === 0 ? LONG_HEADER_BYTES : SHORT_HEADER_BYTES;
  }

  // ---- records ----------------------------------------------------------------------------------------------------

  /** Hands out the records that lie whole in [at, limit) of this page; goes over to assembling the one that does not. */
  #takeRecords(data: Uint8Array, view: DataView, begin: number, limit: number, dataPosition: number): number {
    let at = begin;
    while (limit - at >= RECORD_HEADER_BYTES) {
      const total = view.getUint32(at, true);
      if (!this.#lengthHolds(total, dataPosition + at)) return at;
      const padded = (total + 7) & ~7;
      if (padded > limit - at) break;
      this.#checkRecordHeader(view, at, dataPosition + at);
      this.#handOut(data, view, at, total, dataPosition + at, dataPosition + at + padded);
      at += padded;
      if (this.#stopped || this.#mode !== 'records') return at;
    }
    if (at < limit) {
      this.#mode = 'assemble';
      this.#partialBegin = dataPosition + at;
      this.#partialLength = 0;
    }
    return at;
  }

  /** Adds what [at, limit) holds of the record being put together, and hands it out once it is whole. */
  #assemble(data: Uint8Array, at: number, limit: number): number {
    // First the header alone: what is wrong with it is found before more is gathered.
    const wanted =
      this.#partialLength < RECORD_HEADER_BYTES ? RECORD_HEADER_BYTES : alignUp(this.#partialTotal());
    const count = Math.min(wanted - this.#partialLength, limit - at);
    this.#reservePartial(this.#partialLength + count);
    this.#partial.set(data.subarray(at, at + count), this.#partialLength);
    this.#partialLength += count;
    const end = at + count;
    if (this.#partialLength < 4) return end;
    const total = this.#partialTotal();
    if (!this.#lengthHolds(total, this.#partialBegin)) {
      this.#checkZeros(this.#partial, 0, this.#partialLength);
      return end;
    }
    if (this.#partialLength < wanted) return end;
    if (wanted === RECORD_HEADER_BYTES) this.#checkRecordHeader(this.#partialView, 0, this.#partialBegin);
    if (this.#partialLength < alignUp(total)) return end;
    this.#mode = 'records';
    this.#handOut(this.#partial, this.#partialView, 0, total, this.#partialBegin, this.#position + count);
    if (this.#partial.length > PARTIAL_BUFFER_KEPT_BYTES) this.#replacePartial(PARTIAL_BUFFER_BYTES);
    return end;
  }

  #partialTotal(): number {
    return this.#partialView.getUint32(0, true);
  }

  #reservePartial(lengthBytes: number): void {
    if (lengthBytes <= this.#partial.length) return;
    const old = this.#partial;
    this.#replacePartial(Math.max(lengthBytes, old.length * 2));
    this.#partial.set(old);
  }

  #replacePartial(lengthBytes: number): void {
    this.#partial = new Uint8Array(lengthBytes);
    this.#partialView = new DataView(this.#partial.buffer);
  }

  /** False when the length is the zero of a segment's rest, entered without its switch: then that mode has begun. */
  #lengthHolds(total: number, recordBegin: number): boolean {
    if (total >= RECORD_HEADER_BYTES && total <= MAX_RECORD_BYTES) return true;
    if (total === 0 && recordBegin === this.#entry) {
      this.#enterZeros();
      return false;
    }
    throw this.#unreadable(
      recordBegin,
      `record length ${total}`,
      total === 0 ? 'The log ends here.' : undefined,
    );
  }

  #enterZeros(): void {
    this.#mode = 'skipSegment';
    this.#zerosOnly = true;
  }

  #checkRecordHeader(view: DataView, offset: number, recordBegin: number): void {
    const rmgr = view.getUint8(offset + 17);
    if (!isRmgr(rmgr)) throw this.#unreadable(recordBegin, `resource manager ${rmgr} does not exist`);
    // Exact whenever it could be equal: both terms are whole and small then.
    const previous =
      (view.getUint32(offset + 12, true) - this.#baseHigh) * 0x1_0000_0000 +
      (view.getUint32(offset + 8, true) - this.#baseLow);
    if (previous === this.#previousBegin) return;
    if (Number.isNaN(this.#previousBegin) && previous < recordBegin) return;
    const found = formatLsn(view.getBigUint64(offset + 8, true));
    const wanted = Number.isNaN(this.#previousBegin) ? 'one before it' : this.#format(this.#previousBegin);
    throw this.#unreadable(
      recordBegin,
      `the record links back to ${found}, not to ${wanted}`,
      'An old record of a recycled segment, or damage.',
    );
  }

  #handOut(
    bytes: Uint8Array,
    view: DataView,
    offset: number,
    total: number,
    begin: number,
    end: number,
  ): void {
    if (this.#options.checksRecords !== false && !recordChecksumHolds(bytes, view, offset, total))
      throw this.#unreadable(begin, `wrong checksum of a record of ${total} bytes`);
    this.#previousBegin = begin;
    this.#endOfRecords = end;
    const record = this.#record;
    record.bytes = bytes;
    record.view = view;
    record.offset = offset;
    record.lengthBytes = total;
    record.beginOffset = begin;
    record.endOffset = end;
    record.version = this.#version;
    if (
      view.getUint8(offset + 17) === RMGR.xlog &&
      (view.getUint8(offset + 16) & INFO_RMGR_MASK) === XLOG_INFO.switch
    ) {
      this.#mode = 'skipSegment';
      this.#zerosOnly = false;
      record.endOffset = this.#nextSegment(end);
    }
    if (!this.#sink(record)) this.#stopped = true;
  }

  // ---- skipping ---------------------------------------------------------------------------------------------------

  #skipRecord(at: number, limit: number): number {
    const count = Math.min(limit - at, this.#skipLeft);
    this.#skipLeft -= count;
    if (this.#skipLeft === 0) {
      this.#mode = 'records';
      this.#endOfRecords = this.#position + count;
    }
    return at + count;
  }

  /**
   * The rest of a switched segment. The server writes zeros, but after a crash just behind the switch old bytes may be
   * left there, and the server skips them too.
   */
  #skipSegment(data: Uint8Array, at: number): number {
    const count = Math.min(data.length - at, this.#nextSegment(this.#position) - this.#position);
    if (this.#zerosOnly) this.#checkZeros(data, at, at + count);
    return at + count;
  }

  #checkZeros(bytes: Uint8Array, begin: number, end: number): void {
    if (bytes.subarray(begin, end).some((byte) => byte !== 0))
      throw this.#unreadable(this.#entry, 'record length 0', 'No zeros up to the end of the segment.');
  }

  #leaveSkippedSegment(): void {
    if (this.#mode !== 'skipSegment' || this.#position % this.#options.segmentSizeBytes !== 0) return;
    this.#mode = 'records';
    this.#endOfRecords = this.#position;
  }

  /** The first segment boundary at or after `offset`. */
  #nextSegment(offset: number): number {
    return Math.ceil(offset / this.#options.segmentSizeBytes) * this.#options.segmentSizeBytes;
  }

  // ---- words ------------------------------------------------------------------------------------------------------

  #lsn(offset: number): Lsn {
    return toLsn(this.#base + BigInt(offset));
  }

  #format(offset: number): string {
    return formatLsn(this.#base + BigInt(offset));
  }

  #unreadable(offset: number, what: string, detail?: string): HoldfastError {
    return unreadable(this.#base + BigInt(offset), this.#version, what, detail);
  }
}

function alignUp(lengthBytes: number): number {
  return Math.ceil(lengthBytes / 8) * 8;
}

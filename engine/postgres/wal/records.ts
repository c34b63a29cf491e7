/** Records as values of their own, for people and tests: copied out of the log, so not for the archiver's way. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { RelationId } from '../../../storage-layout/clog/change-map.ts';
import { type BlockView, RecordDecoder } from './blocks.ts';
import { feedLog, type LogPieces } from './feed.ts';
import type { WalVersion } from './page.ts';
import { WalParser, type WalParserOptions } from './parser.ts';
import type { RecordView } from './record.ts';

export type BlockReference = RelationId & {
  readonly id: number;
  readonly fork: number;
  readonly block: number;
  readonly willInit: boolean;
  readonly dataBytes: number;
  readonly image: BlockImage | undefined;
};

export type BlockImage = {
  readonly storedBytes: number;
  readonly holeOffset: number;
  readonly holeBytes: number;
  /** Raw bimg_info: blocks.ts `compressedImageBits`, `applyImageBit`. */
  readonly info: number;
};

export type WalRecord = {
  readonly begin: Lsn;
  /** Where the next record may start. */
  readonly end: Lsn;
  readonly previous: Lsn;
  readonly version: WalVersion | undefined;
  readonly rmgr: number;
  readonly info: number;
  readonly xid: number;
  /** 0: not said. */
  readonly topLevelXid: number;
  /** Replication origin; 0: none. */
  readonly origin: number;
  /** Header included, padding not. */
  readonly lengthBytes: number;
  readonly blocks: readonly BlockReference[];
  readonly mainData: Uint8Array;
};

/** Every whole record of the pieces, in order. Throws as LogInspector.push does, and the signal's reason. */
export async function* readRecords(
  pieces: LogPieces,
  options: WalParserOptions,
  signal?: AbortSignal,
): AsyncGenerator<WalRecord> {
  const decoder = new RecordDecoder();
  let ready: WalRecord[] = [];
  const parser = new WalParser(options, (record) => {
    ready.push(copyRecord(record, decoder));
    return true;
  });
  for await (const _ of feedLog(parser, pieces, signal)) {
    const batch = ready;
    ready = [];
    yield* batch;
  }
}

/** Decodes the record and copies what it holds; images and block data are told by length only. Throws WAL_UNREADABLE. */
export function copyRecord(record: RecordView, decoder: RecordDecoder): WalRecord {
  decoder.decode(record);
  return {
    begin: record.begin,
    end: record.end,
    previous: record.previous,
    version: record.version,
    rmgr: record.rmgr,
    info: record.info,
    xid: record.xid,
    topLevelXid: decoder.topLevelXid,
    origin: decoder.origin,
    lengthBytes: record.lengthBytes,
    blocks: decoder.blocks.slice(0, decoder.blockCount).map(copyBlock),
    mainData: new Uint8Array(
      record.bytes.subarray(decoder.mainOffset, decoder.mainOffset + decoder.mainBytes),
    ),
  };
}

function copyBlock(block: BlockView): BlockReference {
  const { id, tablespace, database, relation, fork, willInit, dataBytes } = block;
  return {
    id,
    tablespace,
    database,
    relation,
    fork,
    block: block.block,
    willInit,
    dataBytes,
    image: block.hasImage
      ? {
          storedBytes: block.imageBytes,
          holeOffset: block.holeOffset,
          holeBytes: block.holeBytes,
          info: block.imageInfo,
        }
      : undefined,
  };
}

/**
 * Records that change relation files beyond their block references (reference 5.6; pg_rewind's extractPageInfo lists
 * the same). Main data, u32 each:
 *
 *   Storage  0x10 create     tablespace, database, relation, fork
 *            0x20 truncate   blocks left, tablespace, database, relation, flags: 1 heap, 2 visibility map, 4 free space map
 *   Database 14: 0x00 create, 0x10 drop;  15+: 0x00 create by file copy, 0x10 create by log, 0x20 drop
 *            create          database, tablespace, …
 *            drop            database, count, tablespace each
 *   Transaction ends         dropped relations (transaction.ts)
 *   XLOG                     wal_level: parameter change @20; from 17 on also checkpoints @20, checkpoint redo @0,
 *                            end of recovery @16
 */
import type { RelationChange } from '../../engine.ts';
import { FORK, type RecordDecoder } from './blocks.ts';
import { mainData, transactionEndOf } from './events.ts';
import { unreadable, type WalVersion } from './page.ts';
import { INFO_RMGR_MASK, INFO_SPECIAL, type RecordView, RMGR, XLOG_INFO } from './record.ts';
import { readRelationId } from './transaction.ts';

const STORAGE = { create: 0x10, truncate: 0x20 } as const;
const TRUNCATE = { heap: 1, visibilityMap: 2, freeSpaceMap: 4 } as const;
const CHECKPOINT_REDO = 0xe0;
const WAL_LEVEL_MINIMAL = 0;

/** What the record changes beyond its block references; mostly nothing. Throws WAL_UNREADABLE. */
export function relationChangesOf(record: RecordView, decoder: RecordDecoder): readonly RelationChange[] {
  switch (record.rmgr) {
    case RMGR.storage:
      return storageChanges(record, decoder);
    case RMGR.database:
      return databaseChanges(record, decoder);
    case RMGR.transaction:
      return transactionChanges(record, decoder);
    case RMGR.xlog:
      return walLevelOf(record, decoder) === WAL_LEVEL_MINIMAL
        ? [{ kind: 'walLevelMinimal' }]
        : unknownIfSpecial(record);
    default:
      return unknownIfSpecial(record);
  }
}

const NOTHING: readonly RelationChange[] = [];

function unknownIfSpecial(record: RecordView): readonly RelationChange[] {
  if ((record.info & INFO_SPECIAL) === 0) return NOTHING;
  return [{ kind: 'unknownSpecial', at: record.begin, rmgr: record.rmgr, info: record.info }];
}

function storageChanges(record: RecordView, decoder: RecordDecoder): readonly RelationChange[] {
  const info = record.info & INFO_RMGR_MASK;
  if (info === STORAGE.create) {
    const view = mainData(record, decoder, 16);
    const at = decoder.mainOffset;
    return [{ kind: 'create', fork: { ...readRelationId(view, at), fork: view.getUint32(at + 12, true) } }];
  }
  if (info === STORAGE.truncate) {
    const view = mainData(record, decoder, 20);
    const at = decoder.mainOffset;
    const relation = readRelationId(view, at + 4);
    const flags = view.getUint32(at + 16, true);
    const cut = (fork: number, blocksLeft: number): RelationChange => ({
      kind: 'truncate',
      fork: { ...relation, fork },
      blocksLeft,
    });
    // How far the maps are cut follows from the heap's blocks; they count as cut to nothing, which is never too little.
    return [
      ...((flags & TRUNCATE.heap) === 0 ? [] : [cut(FORK.main, view.getUint32(at, true))]),
      ...((flags & TRUNCATE.visibilityMap) === 0 ? [] : [cut(FORK.vm, 0)]),
      ...((flags & TRUNCATE.freeSpaceMap) === 0 ? [] : [cut(FORK.fsm, 0)]),
    ];
  }
  return unknownIfSpecial(record);
}

function databaseChanges(record: RecordView, decoder: RecordDecoder): readonly RelationChange[] {
  if (record.version === undefined)
    throw unreadable(record.begin, undefined, 'a database record before the first page header');
  const change = databaseChangeKind(record.info & INFO_RMGR_MASK, record.version);
  if (change === undefined) return unknownIfSpecial(record);
  const view = mainData(record, decoder, 8);
  const at = decoder.mainOffset;
  const database = view.getUint32(at, true);
  if (change === 'createDatabase')
    return [{ kind: change, database: { tablespace: view.getUint32(at + 4, true), database } }];
  const count = view.getUint32(at + 4, true);
  if (decoder.mainBytes < 8 + 4 * count)
    throw unreadable(record.begin, record.version, `a database drop of ${count} tablespaces is cut off`);
  return Array.from({ length: count }, (_, index) => ({
    kind: change,
    database: { tablespace: view.getUint32(at + 8 + 4 * index, true), database },
  }));
}

function databaseChangeKind(
  info: number,
  version: WalVersion,
): 'createDatabase' | 'dropDatabase' | undefined {
  switch (info) {
    case 0x00:
      return 'createDatabase';
    case 0x10:
      return version >= 15 ? 'createDatabase' : 'dropDatabase';
    case 0x20:
      return version >= 15 ? 'dropDatabase' : undefined;
    default:
      return undefined;
  }
}

function transactionChanges(record: RecordView, decoder: RecordDecoder): readonly RelationChange[] {
  // Without the flag no relation is dropped, and most ends of transactions need not be decoded.
  if ((record.info & INFO_SPECIAL) === 0) return NOTHING;
  const ended = transactionEndOf(record, decoder);
  if (ended === undefined) return unknownIfSpecial(record);
  return ended.droppedRelations.map((relation) => ({ kind: 'dropRelation', relation }));
}

function walLevelOf(record: RecordView, decoder: RecordDecoder): number | undefined {
  const at = walLevelOffset(record.info & INFO_RMGR_MASK, record.version);
  if (at === undefined) return undefined;
  const view = mainData(record, decoder, at + 4);
  return view.getInt32(decoder.mainOffset + at, true);
}

function walLevelOffset(info: number, version: WalVersion | undefined): number | undefined {
  if (info === XLOG_INFO.parameterChange) return 20;
  if (version === undefined || version < 17) return undefined;
  switch (info) {
    case XLOG_INFO.checkpointShutdown:
    case XLOG_INFO.checkpointOnline:
      return 20;
    case CHECKPOINT_REDO:
      return 0;
    case XLOG_INFO.endOfRecovery:
      return 16;
    default:
      return undefined;
  }
}

/** A WAL record as a line of text, from our reader and from PostgreSQL's own words, so that the two can be compared. */
import type { WalRecord } from '../../engine/postgres/wal/records.ts';
import { decodeTransactionEnd, endsTransaction } from '../../engine/postgres/wal/transaction.ts';
import { formatLsn } from '../../foundation/lsn.ts';
import type { RelationId } from '../../storage-layout/clog/change-map.ts';

const FORKS = ['main', 'fsm', 'vm', 'init'];

export function imageBytes(record: WalRecord): number {
  return record.blocks.reduce((sum, block) => sum + (block.image?.storedBytes ?? 0), 0);
}

export function blockText(record: WalRecord): string {
  return record.blocks
    .map((block) => {
      const image = block.image === undefined ? '' : ' image';
      return `#${block.id} ${block.tablespace}/${block.database}/${block.relation} ${FORKS[block.fork]} ${block.block}${image}`;
    })
    .join(', ');
}

/** The same from PostgreSQL's own words. */
export function parseBlockText(text: string): string {
  return [...text.matchAll(/blkref #(\d+): rel (\d+\/\d+\/\d+)(?: fork (\w+))? blk (\d+)( \(?FPW)?/g)]
    .map(
      ([, id, relation, fork, block, image]) =>
        `#${id} ${relation} ${fork ?? 'main'} ${block}${image === undefined ? '' : ' image'}`,
    )
    .join(', ');
}

type TransactionText = {
  readonly time: string;
  readonly xid: string;
  readonly relations: string;
  readonly subxids: string;
};

/** What is said of the end of a transaction; undefined for other records. */
export function transactionText(record: WalRecord): TransactionText | undefined {
  if (record.rmgr !== 1 || !endsTransaction(record.info)) return undefined;
  const { mainData } = record;
  const view = new DataView(mainData.buffer, mainData.byteOffset, mainData.byteLength);
  const ended = decodeTransactionEnd(
    record.info,
    record.xid,
    { view, begin: 0, end: mainData.length },
    record.version,
  );
  if (ended === undefined) throw new Error(`no transaction end at ${formatLsn(record.begin)}`);
  return {
    time: String(ended.timeUs),
    xid: ended.prepared ? String(ended.xid) : '',
    relations: ended.droppedRelations.map(relationPath).join(' '),
    subxids: ended.subxids.join(' '),
  };
}

function relationPath({ tablespace, database, relation }: RelationId): string {
  if (tablespace === 1664) return `global/${relation}`;
  return tablespace === 1663 ? `base/${database}/${relation}` : `${tablespace}/${database}/${relation}`;
}

export function parseTransactionText(description: string): TransactionText | undefined {
  const match = /(?:(\d+): )?(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d+))?(?: UTC|\+00)/.exec(description);
  if (match === null) return undefined;
  const [, xid, day, time, fraction] = match;
  const us = BigInt(Date.parse(`${day}T${time}Z`)) * 1000n + BigInt((fraction ?? '').padEnd(6, '0'));
  const list = (name: string) => new RegExp(`; ${name}: ([^;]*)`).exec(description)?.[1]?.trim() ?? '';
  return {
    time: String(us),
    xid: xid ?? '',
    relations: list('rels').replaceAll(/pg_tblspc\/(\d+)\/[^/]+\//g, '$1/'),
    subxids: list('subxacts'),
  };
}

/** Bytes of log by the relation that records are about: by the first block that a record refers to. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { RelationId } from '../../../storage-layout/clog/change-map.ts';
import { RecordDecoder } from './blocks.ts';
import { feedLog, type LogPieces } from './feed.ts';
import { WalParser, type WalParserOptions } from './parser.ts';
import { rmgrName } from './record.ts';

export type RelationVolume = RelationId & { readonly records: number; readonly bytes: number };
/** Of records that refer to no block, by resource manager. */
export type OtherVolume = {
  readonly resourceManager: string;
  readonly records: number;
  readonly bytes: number;
};
export type LogVolume = {
  /** Greatest first. */
  readonly relations: readonly RelationVolume[];
  readonly others: readonly OtherVolume[];
};

/** Counts whole records. Throws as LogInspector.push does, and the signal's reason. */
export class VolumeCounter {
  readonly #decoder = new RecordDecoder();
  readonly #relations = new Map<string, { id: RelationId; records: number; bytes: number }>();
  readonly #others = new Map<string, { records: number; bytes: number }>();

  /** Of the pieces, the records that begin at or behind `from`. */
  async add(pieces: LogPieces, options: WalParserOptions, from: Lsn, signal?: AbortSignal): Promise<void> {
    const parser = new WalParser(options, (record) => {
      if (record.begin < from) return true;
      this.#decoder.decode(record);
      const block = this.#decoder.blockCount === 0 ? undefined : this.#decoder.blocks[0];
      if (block === undefined) {
        const name = rmgrName(record.rmgr);
        const entry = this.#others.get(name) ?? { records: 0, bytes: 0 };
        entry.records += 1;
        entry.bytes += record.lengthBytes;
        this.#others.set(name, entry);
        return true;
      }
      const { tablespace, database, relation } = block;
      const key = `${tablespace}/${database}/${relation}`;
      const entry = this.#relations.get(key) ?? {
        id: { tablespace, database, relation },
        records: 0,
        bytes: 0,
      };
      entry.records += 1;
      entry.bytes += record.lengthBytes;
      this.#relations.set(key, entry);
      return true;
    });
    for await (const _ of feedLog(parser, pieces, signal));
  }

  volume(): LogVolume {
    return {
      relations: [...this.#relations.values()]
        .map(({ id, records, bytes }) => ({ ...id, records, bytes }))
        .sort((a, b) => b.bytes - a.bytes),
      others: [...this.#others]
        .map(([resourceManager, { records, bytes }]) => ({ resourceManager, records, bytes }))
        .sort((a, b) => b.bytes - a.bytes),
    };
  }
}

/**
 * Plans and merges an increment of a database of many macroblocks (argument: how many), all but the copying, in a process
 * of its own, and prints as JSON what it took: `{ blocks, deltas, entries, peakBytes }`.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ChangedPages } from '../../agent/backup/increment/changed-pages.ts';
import { EntrySpill } from '../../agent/backup/increment/entry-spill.ts';
import { numberFiles } from '../../agent/backup/increment/file-numbers.ts';
import { IndexMerge } from '../../agent/backup/increment/merge.ts';
import { planPieces } from '../../agent/backup/increment/plan.ts';
import { evenTasks, groupPieces } from '../../agent/backup/plan.ts';
import type { DataFile } from '../../engine/engine.ts';
import { toLsn } from '../../foundation/lsn.ts';
import {
  ENTRY_BYTES,
  encodeMacroBlockEntry,
  MACROBLOCK_BYTES,
  type MacroBlockEntry,
} from '../../storage-layout/macroblock/entry.ts';
import { EntryStream } from '../../storage-layout/macroblock/entry-stream.ts';
import { readIndexChunks, writeMacroBlockIndex } from '../../storage-layout/macroblock/index.ts';
import { addPages, emptyPageMap, MAX_PAGES } from '../../storage-layout/macroblock/page-map.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openMedium } from '../../storage-layout/media/open.ts';

const SEGMENT_BLOCKS = 512;
const SEGMENTS_PER_RELATION = 1000;
const MAPS_PER_CHANGE = 2000;
const PLACE = { setId: 1n, subTaskId: 1, storedBytes: 700_000, crc32c: 1, compression: 'zstd' } as const;

const blocks = Number(process.argv[2]);
const segments = Math.ceil(blocks / SEGMENT_BLOCKS);
const directory = await mkdtemp(join(tmpdir(), 'holdfast-large-increment-'));
try {
  await using medium = await openMedium(`file://${directory}`);
  const before = await writeMacroBlockIndex(medium, 'before', entriesBefore());
  const { deltas, entries } = await makeIncrement(medium);
  const peakBytes = process.resourceUsage().maxRSS * 1024;
  process.stdout.write(`${JSON.stringify({ blocks: before.entryCount, deltas, entries, peakBytes })}\n`);
} finally {
  await rm(directory, { recursive: true, force: true });
}

async function makeIncrement(medium: Medium): Promise<{ readonly deltas: number; readonly entries: number }> {
  const listed = Array.from({ length: segments }, (_, segment) => fileOf(segment));
  using changed = new ChangedPages(directory, listed);
  using spill = new EntrySpill(directory);
  addChanges(changed);
  const byPath = new Map(listed.map(({ path }, index) => [path, index + 1]));
  const { files } = numberFiles(listed, { byPath, next: listed.length + 1 }, (path) => changed.isNew(path));
  const pieces = planPieces(
    files,
    new EntryStream(readIndexChunks(medium, 'before')),
    (path) => changed.mapsOf(path),
    () => undefined,
  );
  for await (const task of groupPieces(pieces, 1, evenTasks(blocks * MACROBLOCK_BYTES))) {
    const encoded = Buffer.alloc(task.pieces.length * ENTRY_BYTES);
    for (const [index, { fileNumber, beginBlock, pages }] of task.pieces.entries())
      encodeMacroBlockEntry(encoded, index * ENTRY_BYTES, {
        setId: 0n,
        subTaskId: 0,
        offset: 0,
        storedBytes: 0,
        crc32c: 0,
        compression: 'none',
        fileNumber,
        blockNumber: beginBlock,
        plainBytes: MACROBLOCK_BYTES,
        newestPageLsn: toLsn(7n),
        pageCheckFailed: false,
        ...(pages === undefined ? {} : { delta: { ...PLACE, offset: index, pages } }),
      });
    spill.add({ subTaskId: task.subTaskId, entries: encoded });
  }
  const merge = new IndexMerge({
    files,
    before: new EntryStream(readIndexChunks(medium, 'before')),
    copied: new EntryStream(spill.chunks()),
    control: [],
    pagesAreChecked: true,
    gone: new Set(),
    ends: new Map(),
    hasFailed: () => false,
  });
  const written = await writeMacroBlockIndex(medium, 'after', merge.entries());
  return { deltas: spill.count, entries: written.entryCount };
}

function* entriesBefore(): Generator<MacroBlockEntry> {
  for (let block = 0; block < segments * SEGMENT_BLOCKS; block += 1)
    yield {
      ...PLACE,
      offset: block * 700_000,
      fileNumber: 1 + Math.floor(block / SEGMENT_BLOCKS),
      blockNumber: block % SEGMENT_BLOCKS,
      plainBytes: MACROBLOCK_BYTES,
      newestPageLsn: toLsn(BigInt(block)),
      pageCheckFailed: false,
    };
}

/** Three pages of every macroblock but each tenth. */
function addChanges(changed: ChangedPages): void {
  for (let first = 0; first < segments * SEGMENT_BLOCKS; first += MAPS_PER_CHANGE) {
    const byRelation = new Map<number, { macroblock: number; pages: Uint8Array }[]>();
    for (
      let block = first;
      block < Math.min(first + MAPS_PER_CHANGE, segments * SEGMENT_BLOCKS);
      block += 1
    ) {
      if (block % 10 === 0) continue;
      const pages = emptyPageMap();
      for (const page of [block * 7, block * 31, block * 101])
        addPages(pages, page % MAX_PAGES, (page % MAX_PAGES) + 1);
      const relation = Math.floor(block / (SEGMENT_BLOCKS * SEGMENTS_PER_RELATION));
      const maps = byRelation.get(relation) ?? [];
      byRelation.set(relation, maps);
      maps.push({ macroblock: block - relation * SEGMENT_BLOCKS * SEGMENTS_PER_RELATION, pages });
    }
    for (const [relation, macroblocks] of byRelation)
      changed.add({
        kind: 'fork',
        tablespace: 1663,
        database: 5,
        relation: 1 + relation,
        fork: 0,
        created: false,
        truncatedTo: undefined,
        macroblocks,
      });
  }
}

function fileOf(segment: number): DataFile {
  const relation = 1 + Math.floor(segment / SEGMENTS_PER_RELATION);
  const number = segment % SEGMENTS_PER_RELATION;
  const path = `base/5/${relation}${number === 0 ? '' : `.${number}`}`;
  const sizeBytes = SEGMENT_BLOCKS * MACROBLOCK_BYTES;
  return { path, absolutePath: `/${path}`, kind: 'main', sizeBytes, mode: 0o600, modifiedMs: 0 };
}

/** Sets of pages of one macroblock: 256 bits, page p being bit p % 8 of byte p / 8. Page ranges are [begin, end). */
export const PAGE_BYTES = 8192;
/** Pages of a macroblock of 2 MiB. */
export const MAX_PAGES = 256;
export const PAGE_MAP_BYTES = MAX_PAGES / 8;

export type PageRange = { readonly begin: number; readonly end: number };

/** An empty set. */
export function emptyPageMap(): Uint8Array {
  return new Uint8Array(PAGE_MAP_BYTES);
}

export function hasPage(map: Uint8Array, page: number): boolean {
  return (((map[page >> 3] ?? 0) >> (page & 7)) & 1) === 1;
}

/** Adds pages [begin, end) to the set. */
export function addPages(map: Uint8Array, begin: number, end: number): void {
  for (let page = begin; page < end; page += 1) map[page >> 3] = (map[page >> 3] ?? 0) | (1 << (page & 7));
}

/** Adds the pages of `more`. */
export function addPageMap(map: Uint8Array, more: Uint8Array): void {
  for (const [index, byte] of more.entries()) map[index] = (map[index] ?? 0) | byte;
}

/** Takes the pages from `end` on out of the set. */
export function cutPages(map: Uint8Array, end: number): void {
  if (end >= MAX_PAGES) return;
  const index = end >> 3;
  map[index] = (map[index] ?? 0) & ((1 << (end & 7)) - 1);
  map.fill(0, index + 1);
}

export function countPages(map: Uint8Array): number {
  let count = 0;
  for (const byte of map) for (let rest = byte; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}

/** The last page of the set + 1; 0: it is empty. */
export function endOfPages(map: Uint8Array): number {
  for (let index = PAGE_MAP_BYTES - 1; index >= 0; index -= 1) {
    const byte = map[index] ?? 0;
    if (byte !== 0) return index * 8 + 32 - Math.clz32(byte);
  }
  return 0;
}

/** The set as ranges, ascending; ranges that are at most `maxGap` pages apart are joined. */
export function pageRanges(map: Uint8Array, maxGap = 0): readonly PageRange[] {
  const ranges: { begin: number; end: number }[] = [];
  const end = endOfPages(map);
  for (let page = 0; page < end; page += 1) {
    if (!hasPage(map, page)) continue;
    const last = ranges.at(-1);
    if (last !== undefined && page - last.end <= maxGap) last.end = page + 1;
    else ranges.push({ begin: page, end: page + 1 });
  }
  return ranges;
}

/** Asynchronous work on a list, a few items at a time. */

/** `act` on every item, at most `limit` at a time; results in the items' order. */
export async function mapLimited<Item, Result>(
  items: readonly Item[],
  limit: number,
  act: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  for (let first = 0; first < items.length; first += limit)
    results.push(...(await Promise.all(items.slice(first, first + limit).map(act))));
  return results;
}

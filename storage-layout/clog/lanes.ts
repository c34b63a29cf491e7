/**
 * The order of log files that their names tell. Pure.
 *
 * An archiver (epoch) writes ids one after the other, each file beginning where the one before ended; a successor begins
 * with a greater id than any that it finds, where it sealed its predecessor. So along the ids neither timeline nor begin
 * go back. One that was thought dead and goes on writes ids that its successor takes too: its files from the successor's
 * first id on are a lane of their own, in which the same holds.
 *
 * Ids are given without a hole, the greatest there is and one: an id that a lane lacks is a file that is lost.
 */
import type { FileName } from './log-file.ts';

/** Places in the list of names, ascending. */
export type Lane = readonly number[];

/** `names`: in order of (file id, epoch). The main lane first, then one for each archiver that was overtaken while it wrote. */
export function arrangeLanes(names: readonly FileName[]): readonly Lane[] {
  const epochs = new Map<bigint, number[]>();
  for (const [place, { epoch }] of names.entries()) {
    const places = epochs.get(epoch);
    if (places === undefined) epochs.set(epoch, [place]);
    else places.push(place);
  }
  const main: number[][] = [];
  const overtaken: Lane[] = [];
  let successorsFirstId: bigint | undefined;
  for (const [, places] of [...epochs].sort(([a], [b]) => (a < b ? 1 : -1))) {
    const idAt = (place: number | undefined) => names[place ?? -1]?.fileId ?? 0n;
    const bound = successorsFirstId;
    const late = bound === undefined ? -1 : places.findLastIndex((place) => idAt(place) < bound) + 1;
    main.push(late < 0 ? places : places.slice(0, late));
    if (late >= 0 && late < places.length) overtaken.push(places.slice(late));
    const first = idAt(places[0]);
    if (bound === undefined || first < bound) successorsFirstId = first;
  }
  return [main.toReversed().flat(), ...overtaken.toReversed()];
}

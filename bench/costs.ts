/** What each work took with each tool, run by run, and the medians. Pure. */
import type { NeededBytes } from './needed-pages.ts';
import { median } from './report.ts';
import type { Cost } from './tool.ts';

export type Quantity = keyof Cost;

export class Costs {
  readonly #costs = new Map<string, Map<string, Cost[]>>();
  readonly #needed = new Map<string, NeededBytes[]>();

  add(work: string, tool: string, cost: Cost): void {
    const tools = this.#costs.get(work) ?? new Map<string, Cost[]>();
    this.#costs.set(work, tools);
    tools.set(tool, [...(tools.get(tool) ?? []), cost]);
  }

  /** What an increment had to read. */
  addNeeded(work: string, needed: NeededBytes): void {
    this.#needed.set(work, [...(this.#needed.get(work) ?? []), needed]);
  }

  /** Of a work, in the order in which they came. */
  tools(work: string): readonly string[] {
    return [...(this.#costs.get(work)?.keys() ?? [])];
  }

  /** Peak memory: the highest; else the median of the runs; undefined when there is none. */
  of(work: string, tool: string, quantity: Quantity): number | undefined {
    const values = (this.#costs.get(work)?.get(tool) ?? []).flatMap((cost) => cost[quantity] ?? []);
    if (values.length === 0) return undefined;
    return quantity === 'peakRssBytes' ? Math.max(...values) : median(values);
  }

  needed(work: string): NeededBytes | undefined {
    const runs = this.#needed.get(work);
    if (runs === undefined) return undefined;
    return {
      changedBytes: median(runs.map((run) => run.changedBytes)),
      alwaysCopiedBytes: median(runs.map((run) => run.alwaysCopiedBytes)),
    };
  }
}

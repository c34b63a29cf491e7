/**
 * Tools beside each other on one machine, one disk and one database, work by work in turn. A run has two chapters, each of a
 * full backup and what follows it:
 *
 *   1  full, its restore and validation; an increment after nothing changed; ten after 1 % of the pages changed, scattered;
 *      the tenth's restore, and the full's again as a delta over that
 *   2  full; increments after 0.1 %, 1 % and 10 % changed, clustered or scattered
 *
 * Before each work all that was written is synced, and the database's files and the repositories are as warm in the page
 * cache as their writing and reading left them, for every tool alike.
 */
import { execFile } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { TestServer } from '../test/support/postgres.ts';
import { createRandom, type Random } from '../test/support/random.ts';
import { measureArchiveThroughput } from './archive.ts';
import { change } from './changes.ts';
import { Costs } from './costs.ts';
import type { Holdfast } from './holdfast.ts';
import { FULL_SET } from './holdfast-set.ts';
import { neededBytes } from './needed-pages.ts';
import type { BackupTool, Cost } from './tool.ts';
import { RIVAL, SAME, STEPS_APART, STEPS_IN_A_ROW, type Step, WORK, ZSTD } from './works.ts';
import type { ZstdCommand } from './zstd-command.ts';

export type Tools = {
  readonly rival: BackupTool;
  readonly same: Holdfast;
  /** At the default level: its full and the full's restore. */
  readonly usual: Holdfast;
  readonly others: readonly BackupTool[];
  readonly zstd: ZstdCommand;
};

export async function compare(
  directory: string,
  server: TestServer,
  tools: Tools,
  runs: number,
): Promise<Costs> {
  const costs = new Costs();
  const random = createRandom('changes of the bench');
  await warmUp(directory, tools.usual);
  for (let run = 1; run <= runs; run += 1) {
    console.error(`run ${run} of ${runs}`);
    await new Run({ directory, server, tools, costs, random, number: run }).run();
  }
  return costs;
}

/** An agent's modules are compiled already: each of its works once, so that they are here too. */
async function warmUp(directory: string, tool: Holdfast): Promise<void> {
  console.error('once for nothing …');
  const target = join(directory, 'warm');
  await tool.prepare();
  await tool.full();
  await tool.increment();
  await tool.restore({ target, of: 'full', delta: false });
  await tool.restore({ target, of: 'last', delta: true });
  await tool.validate();
  await tool.close();
  await removeRestored(target);
}

/** Log through both archivers, each `sizeBytes`, once. */
export async function compareArchiving(
  directory: string,
  socketDirectory: string,
  sizeBytes: number,
  costs: Costs,
): Promise<void> {
  const found = await measureArchiveThroughput(directory, socketDirectory, sizeBytes, ['zstd:3']);
  for (const [name, cost] of found) costs.add(WORK.archive, name === SAME ? SAME : RIVAL, cost);
}

type Course = {
  readonly directory: string;
  readonly server: TestServer;
  readonly tools: Tools;
  readonly costs: Costs;
  readonly random: Random;
  readonly number: number;
};

class Run {
  readonly #course: Course;
  readonly #target: string;

  constructor(course: Course) {
    this.#course = course;
    this.#target = join(course.directory, 'restored');
  }

  async run(): Promise<void> {
    const { rival, same, others } = this.#course.tools;
    await this.#firstChapter();
    await this.#secondChapter();
    await same.close();
    for (const tool of [rival, ...others]) await tool[Symbol.asyncDispose](); // gives the space back
  }

  async #firstChapter(): Promise<void> {
    const { usual, rival, same, others, zstd } = this.#course.tools;
    for (const tool of [usual, ...this.#turned([rival, same, ...others])]) {
      await tool.prepare();
      await this.#measure(WORK.full, tool, () => tool.full());
      await this.#measure(WORK.restoreFull, tool, tool.restore && (() => this.#restore(tool, 'full', false)));
      await removeRestored(this.#target);
      if (tool === usual) await usual.close();
      else await this.#measure(WORK.validate, tool, tool.validate && (() => tool.validate?.()));
    }
    await this.#measure(WORK.compress, { name: ZSTD }, () => zstd.compress(3));
    const row = this.#onward();
    await this.#increments(WORK.nothing, row);
    for (const step of STEPS_IN_A_ROW) await this.#step(step, row);
    for (const tool of row) {
      await this.#measure(
        WORK.restoreTenth,
        tool,
        tool.restore && (() => this.#restore(tool, 'last', false)),
      );
      const hasDelta = tool.restoresDelta === true;
      await this.#measure(
        WORK.restoreDelta,
        tool,
        hasDelta ? () => this.#restore(tool, 'full', true) : undefined,
      );
      await removeRestored(this.#target);
    }
  }

  async #secondChapter(): Promise<void> {
    const row = this.#onward();
    for (const tool of row) {
      await tool.prepare();
      await this.#measure(WORK.full, tool, () => tool.full());
    }
    for (const step of STEPS_APART) await this.#step(step, row);
  }

  /** Who makes increments. */
  #onward(): readonly BackupTool[] {
    const { rival, same, others } = this.#course.tools;
    const makes = (tool: BackupTool) => 'increment' in tool && tool.increment !== undefined;
    return this.#turned([rival, same, ...others].filter(makes));
  }

  /** Each run begins with another. */
  #turned(tools: readonly BackupTool[]): readonly BackupTool[] {
    const shift = this.#course.number % tools.length;
    return [...tools.slice(shift), ...tools.slice(0, shift)];
  }

  async #step({ work, change: wanted }: Step, row: readonly BackupTool[]): Promise<void> {
    const { server, random } = this.#course;
    await change(server, random, wanted);
    await this.#increments(work, row);
  }

  async #increments(work: string, row: readonly BackupTool[]): Promise<void> {
    const { same } = this.#course.tools;
    const { server, costs } = this.#course;
    for (const tool of row) {
      await this.#measure(work, tool, tool.increment && (() => tool.increment?.()));
      if (tool !== same || work === WORK.nothing) continue;
      const setId = FULL_SET + BigInt(same.starts.length - 1);
      costs.addNeeded(work, await neededBytes(same.destination, server.dataDirectory, setId, same.starts));
    }
  }

  async #restore(tool: BackupTool, of: 'full' | 'last', delta: boolean): Promise<Cost | undefined> {
    return await tool.restore?.({ target: this.#target, of, delta });
  }

  /** `work` undefined: the tool does not do it. */
  async #measure(
    name: string,
    tool: Pick<BackupTool, 'name'>,
    work: (() => Promise<Cost | undefined> | undefined) | undefined,
  ): Promise<void> {
    if (work === undefined) return;
    await promisify(execFile)('sync');
    const cost = await work();
    if (cost === undefined) return;
    this.#course.costs.add(name, tool.name, cost);
    const stored =
      cost.storedBytes === undefined ? '' : `, ${(cost.storedBytes / 2 ** 20).toFixed(1)} MB stored`;
    console.error(
      `${name}, ${tool.name}: ${cost.seconds.toFixed(2)} s, ${cost.cpuSeconds.toFixed(2)} s CPU${stored}`,
    );
  }
}

async function removeRestored(target: string): Promise<void> {
  await rm(target, { recursive: true, force: true });
  await rm(`${target}.holdfast`, { recursive: true, force: true });
}

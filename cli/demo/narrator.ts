/** What the demo says: numbered steps with their times, statements as a user types them, and what came back. */
export type Narrator = {
  /** Begins a step; the one before it gets its time. */
  step(title: string): void;
  /** A line of explanation. */
  say(text: string): void;
  /** A statement as typed: at whose prompt, and what. */
  statement(prompt: string, sql: string): void;
  /** What a server answered. */
  answer(text: string): void;
  /** Steps and their durations so far; ends the running one. */
  timings(): readonly { readonly title: string; readonly durationMs: number }[];
};

export function createNarrator(write: (text: string) => void): Narrator {
  const done: { title: string; durationMs: number }[] = [];
  let current: { readonly title: string; readonly begin: number } | undefined;
  const endStep = () => {
    if (current === undefined) return;
    const durationMs = performance.now() - current.begin;
    done.push({ title: current.title, durationMs });
    write(`    (${(durationMs / 1000).toFixed(1)} s)\n`);
    current = undefined;
  };
  return {
    step(title) {
      endStep();
      current = { title, begin: performance.now() };
      write(`\n${done.length + 1}. ${title}\n`);
    },
    say: (text) => write(`    ${text.replaceAll('\n', '\n    ')}\n`),
    statement: (prompt, sql) => write(`    ${prompt} ${sql};\n`),
    answer: (text) => write(`      ${text.replaceAll('\n', '\n      ')}\n`),
    timings() {
      endStep();
      return done;
    },
  };
}

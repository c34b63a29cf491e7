/** One line that is written over and over on a terminal, and nothing at all elsewhere. */

const MIN_INTERVAL_MS = 100;

export class ProgressLine implements Disposable {
  readonly #stream: NodeJS.WriteStream;
  #shownMs = 0;
  #length = 0;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Shows the text, unless the last one is too fresh. */
  show(text: string): void {
    const nowMs = performance.now();
    if (!this.#stream.isTTY || nowMs - this.#shownMs < MIN_INTERVAL_MS) return;
    this.#shownMs = nowMs;
    const cut = text.slice(0, Math.max(10, this.#stream.columns - 1));
    this.#stream.write(`\r${cut.padEnd(this.#length)}`);
    this.#length = cut.length;
  }

  /** Removes the line. */
  [Symbol.dispose](): void {
    if (this.#length > 0) this.#stream.write(`\r${' '.repeat(this.#length)}\r`);
    this.#length = 0;
  }
}

/** One at a time, in order of arrival. */
export class Mutex {
  #tail: Promise<unknown> = Promise.resolve();

  /** Runs `work` after all earlier work has settled. */
  run<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(work, work);
    this.#tail = result.catch(() => undefined); // the caller has the failure; the next in line does not care
    return result;
  }
}

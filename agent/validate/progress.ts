/** How far a validation is. */
export type ValidationPhase = 'META' | 'DATA' | 'LOG';

export type ValidationStep = {
  readonly phase: ValidationPhase;
  /** Of data files, before compression. */
  readonly bytesDone: bigint;
  readonly bytesTotal: bigint;
  readonly blocksDone: bigint;
  readonly blocksTotal: bigint;
  readonly logBytesDone: bigint;
  readonly logBytesTotal: bigint;
  readonly findingCount: number;
};

export class ValidationReporter {
  readonly #report: (step: ValidationStep) => void;
  #step: ValidationStep = {
    phase: 'META',
    bytesDone: 0n,
    bytesTotal: 0n,
    blocksDone: 0n,
    blocksTotal: 0n,
    logBytesDone: 0n,
    logBytesTotal: 0n,
    findingCount: 0,
  };

  constructor(report: (step: ValidationStep) => void) {
    this.#report = report;
  }

  get step(): ValidationStep {
    return this.#step;
  }

  set(change: Partial<ValidationStep>): void {
    this.#step = { ...this.#step, ...change };
    this.#report(this.#step);
  }
}

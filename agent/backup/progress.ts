/** Tells how far a backup is. */
import { create } from '@bufbuild/protobuf';
import type { LogPoint } from '../../engine/engine.ts';
import {
  type BackupProgress,
  BackupProgressSchema,
  type BackupResume,
  BackupResumeSchema,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Counters } from './counters.ts';

const REPORT_INTERVAL_MS = 500;

/** What there is, whether it is copied or stays where the backup before has it. */
export type BackupTotals = { readonly bytes: number; readonly files: number; readonly macroblocks: number };

export class ProgressReporter {
  readonly #report: (progress: BackupProgress) => void;
  #start: LogPoint | undefined;
  #resume: BackupResume | undefined;
  #waitingFor = '';

  constructor(report: (progress: BackupProgress) => void) {
    this.#report = report;
    report(create(BackupProgressSchema, { phase: 'START' }));
  }

  /** The server has begun the backup. */
  begin(start: LogPoint): void {
    this.#start = start;
    this.#reportStart();
  }

  /** Nothing of the attempts before is taken over. */
  refuseResume(retry: number, refused: string): void {
    this.#resume = create(BackupResumeSchema, { retry, refused });
    this.#reportStart();
  }

  resumed(retry: number, taken: { readonly macroblocks: number; readonly bytes: number }): void {
    const [macroblocks, bytes] = [BigInt(taken.macroblocks), BigInt(taken.bytes)];
    this.#resume = create(BackupResumeSchema, { retry, macroblocks, bytes });
  }

  /** The destination fails; '': it does no more. Told with the next report. */
  waitFor(what: string): void {
    this.#waitingFor = what;
  }

  send(phase: 'COPY' | 'STOP', totals: BackupTotals, counters: Counters): void {
    const done = counters.read();
    this.#report(
      create(BackupProgressSchema, {
        phase,
        bytesDone: done.plainBytes,
        bytesTotal: BigInt(totals.bytes),
        outputBytes: done.storedBytes,
        filesDone: done.files,
        filesTotal: BigInt(totals.files),
        macroblocksDone: done.macroblocks,
        macroblocksTotal: BigInt(totals.macroblocks),
        ...this.#said(),
      }),
    );
  }

  #reportStart(): void {
    this.#report(create(BackupProgressSchema, { phase: 'START', ...this.#said() }));
  }

  #said() {
    return {
      ...(this.#start === undefined ? {} : { start: this.#start }),
      ...(this.#resume === undefined ? {} : { resume: this.#resume }),
      waitingFor: this.#waitingFor,
    };
  }

  /** Reports now and regularly until it is disposed. */
  tick(phase: 'COPY', totals: BackupTotals, counters: Counters): Disposable {
    this.send(phase, totals, counters);
    const timer = setInterval(() => this.send(phase, totals, counters), REPORT_INTERVAL_MS);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }
}

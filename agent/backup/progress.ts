/** Tells how far a backup is. */
import { create } from '@bufbuild/protobuf';
import { type BackupProgress, BackupProgressSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { Counters } from './counters.ts';
import type { BackupPlan } from './plan.ts';

const REPORT_INTERVAL_MS = 500;

export class ProgressReporter {
  readonly #report: (progress: BackupProgress) => void;

  constructor(report: (progress: BackupProgress) => void) {
    this.#report = report;
    report(create(BackupProgressSchema, { phase: 'START' }));
  }

  send(phase: 'COPY' | 'STOP', plan: BackupPlan, counters: Counters): void {
    const done = counters.read();
    this.#report(
      create(BackupProgressSchema, {
        phase,
        bytesDone: done.plainBytes,
        bytesTotal: BigInt(plan.totalBytes),
        outputBytes: done.storedBytes,
        filesDone: done.files,
        filesTotal: BigInt(plan.files.length),
        macroblocksDone: done.macroblocks,
        macroblocksTotal: BigInt(plan.totalBlocks),
      }),
    );
  }

  /** Reports now and regularly until it is disposed. */
  tick(phase: 'COPY', plan: BackupPlan, counters: Counters): Disposable {
    this.send(phase, plan, counters);
    const timer = setInterval(() => this.send(phase, plan, counters), REPORT_INTERVAL_MS);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }
}

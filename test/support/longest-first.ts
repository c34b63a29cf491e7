/** The order of test files: those that take minutes begin first, so that none of them runs alone at the end. */
import { basename } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** In falling order of time, on two processors. */
const LONGEST = [
  'kill-coordinator',
  'resume',
  'holes',
  'kill-postgresql',
  'failover',
  'kill-coordinator-synthetic-and-validate',
  'kill-agent-synthetic-and-validate',
  'kill-agent',
  'encryption',
  'main-path',
  'instants',
  'increments',
  'backup-medium',
  'increment-refusals',
  'destination-gone',
  'synthetic',
  'groups',
  'large-increment',
  'restore',
].map((name) => `${name}.test.ts`);

export class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const index = LONGEST.indexOf(basename(moduleId));
      return index < 0 ? LONGEST.length : index;
    };
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b));
  }
}

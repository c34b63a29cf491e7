/** On which PostgreSQL versions a test runs: its own choice, or all that HOLDFAST_TEST_MAJORS names (`npm run test:matrix`). */
import { MAJORS, type Major } from './postgres.ts';

/** `HOLDFAST_TEST_MAJORS=14,15` overrides `usual`. */
export function majors(...usual: readonly Major[]): readonly Major[] {
  const text = process.env['HOLDFAST_TEST_MAJORS'];
  if (text === undefined || text === '') return usual;
  return text.split(',').map((part) => {
    const found = MAJORS.find((major) => String(major) === part.trim());
    if (found === undefined)
      throw new Error(`HOLDFAST_TEST_MAJORS: "${part}" is none of ${MAJORS.join(', ')}`);
    return found;
  });
}

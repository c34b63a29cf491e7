import { expect, test } from 'vitest';
import { describeAgent, fillSection, SECTION } from '../../../bench/report.ts';

test('the section between the marks is replaced, the rest stays, and filling twice is filling once', () => {
  const document = 'before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n';
  const filled = fillSection(document, SECTION.agent, 'new');
  expect(filled).toBe('before\n<!-- bench: begin -->\nnew\n<!-- bench: end -->\nafter\n');
  expect(fillSection(filled, SECTION.agent, 'new')).toBe(filled);
  expect(() => fillSection(document, SECTION.log, 'new')).toThrow('no place');
  expect(() => fillSection('no marks', SECTION.agent, 'new')).toThrow('no place');
});

test('without pgbench only the memory is described', () => {
  const peakRssBytes = new Map([['backup', 2 ** 28]] as const);
  expect(describeAgent({ peakRssBytes, lag: undefined })).toBe(
    'Peak memory of a real agent, which goes on archiving in every phase: backup 256.00MB.',
  );
});

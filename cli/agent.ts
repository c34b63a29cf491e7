/** `holdfast agent`: the agent as a process of its own. */
import type { Command } from 'commander';
import { addExamples } from './help.ts';
import { addProcessOptions, type ProcessOptions, runProcess } from './process.ts';

export function registerAgent(program: Command): void {
  const command = program
    .command('agent')
    .summary('run the agent of one database node')
    .description(
      'Run the agent of one database node, beside the PostgreSQL instances that its configuration declares. It dials ' +
        'the coordinator and does what it is told: archives the log, copies data, lays restored databases down.\n\n' +
        'SIGTERM or SIGINT ends it in order; a second one at once.',
    )
    .action(async (options: ProcessOptions) => {
      const [{ agentConfigSchema }, { runAgent }] = await Promise.all([
        import('../agent/config.ts'),
        import('../agent/main.ts'),
      ]);
      await runProcess('agent', options, agentConfigSchema, runAgent);
    });
  addProcessOptions(command, 'agent.yaml');
  addExamples(command, [
    ['run with the sample configuration', 'holdfast agent --config deploy/agent.yaml'],
    ['only check the configuration', 'holdfast agent --config agent.yaml --check-config'],
  ]);
}

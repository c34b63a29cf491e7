/** `holdfast agent`: the agent as a process of its own. */
import type { Command } from 'commander';
import { becomeAgentImage } from './agent-image.ts';
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
      const { agentConfigSchema } = await import('../agent/config.ts');
      await runProcess('agent', options, agentConfigSchema, async (config, signal, logger) => {
        becomeAgentImage(config.state_directory); // before anything large is loaded
        const { runAgent } = await import('../agent/main.ts');
        await runAgent(config, signal, logger);
      });
    });
  addProcessOptions(command, 'agent.yaml');
  addExamples(command, [
    ['run with the sample configuration', 'holdfast agent --config deploy/agent.yaml'],
    ['only check the configuration', 'holdfast agent --config agent.yaml --check-config'],
  ]);
}

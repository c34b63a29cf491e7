/** `holdfast coordinator`: the coordinator as a process of its own. */
import type { Command } from 'commander';
import { addExamples } from './help.ts';
import { addProcessOptions, type ProcessOptions, runProcess } from './process.ts';

export function registerCoordinator(program: Command): void {
  const command = program
    .command('coordinator')
    .summary('run the coordinator')
    .description(
      'Run the coordinator: it takes admin statements (PostgreSQL wire and gRPC), splits them into tasks for the ' +
        'agents, follows archive rounds and keeps the catalog. It never touches a data block.\n\n' +
        'SIGTERM or SIGINT ends it in order; a second one at once.',
    )
    .action(async (options: ProcessOptions) => {
      const [{ coordinatorConfigSchema }, { runCoordinator }] = await Promise.all([
        import('../coordinator/config.ts'),
        import('../coordinator/main.ts'),
      ]);
      await runProcess('coordinator', options, coordinatorConfigSchema, runCoordinator);
    });
  addProcessOptions(command, 'coordinator.yaml');
  addExamples(command, [
    ['run with the sample configuration', 'holdfast coordinator --config deploy/coordinator.yaml'],
    ['only check the configuration', 'holdfast coordinator --config coordinator.yaml --check-config'],
  ]);
}

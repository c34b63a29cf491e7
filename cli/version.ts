/** `holdfast version` */
import type { Command } from 'commander';
import { VERSION } from '../foundation/version.ts';

export function registerVersion(program: Command): void {
  program
    .command('version')
    .description('Print the version of Holdfast and of the Node that runs it.')
    .action(() => {
      process.stdout.write(`${versionLine()}\n`);
    });
}

/** `holdfast 0.1.0 (node 24.21.0, linux x64)` */
export function versionLine(): string {
  return `holdfast ${VERSION} (node ${process.versions.node}, ${process.platform} ${process.arch})`;
}

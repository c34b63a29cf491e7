import { rm } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { agentConfigSchema, declaredInstances, restoreSettings } from '../../../agent/config.ts';
import { AgentState } from '../../../agent/state.ts';
import { parseYamlConfig } from '../../../foundation/yaml-config.ts';
import { makeTestDirectory } from '../../support/postgres.ts';

const SMALL = `
coordinator: 127.0.0.1:2882
node: { ip: 10.0.0.1 }
state_directory: /var/lib/holdfast
instances:
  - { name: a, tenant: orders, port: 5433 }
restore:
  directory: /restore
  bin_directories: { 17: /usr/lib/postgresql/17/bin }
`;

function parse(text: string): ReturnType<typeof agentConfigSchema.parse> {
  return parseYamlConfig(text, 'agent.yaml', agentConfigSchema);
}

describe('agent.yaml', () => {
  test('what is left out has a default', async () => {
    const config = parse(SMALL);
    expect(config.node).toEqual({ ip: '10.0.0.1', port: 2889, zone: 'zone1' });
    expect(declaredInstances(config)[0]).toMatchObject({
      name: 'a',
      tenant: 'orders',
      partitionGroup: 'p0',
      host: '127.0.0.1',
      port: 5433,
      user: 'postgres',
    });
    const restore = await restoreSettings(config);
    expect(restore?.binDirectories.get(17)).toBe('/usr/lib/postgresql/17/bin');
    expect(restore?.portRange).toEqual({ begin: 15_432, end: 15_532 });
  });
  test('a mistyped key, a bad address and a name given twice are refused at their place', () => {
    expect(() => parse(SMALL.replace('port:', 'prot:'))).toThrow(/agent\.yaml:6:\d+.*prot: unknown key/);
    expect(() => parse(SMALL.replace(':2882', ''))).toThrow(/host:port/);
    expect(() => parse(SMALL.replace('restore:', '  - { name: a, tenant: x }\nrestore:'))).toThrow(
      /same name/,
    );
  });
  test('an instance without a tenant is only watched, and has no partition group', () => {
    const watched = SMALL.replace('tenant: orders, ', '');
    expect(declaredInstances(parse(watched))[0]).toMatchObject({ tenant: undefined, partitionGroup: '' });
    expect(() => parse(watched.replace('port: 5433', 'partition_group: p1'))).toThrow(
      /^agent\.yaml:6:\d+: instances\[0\]\.partition_group: an instance without a tenant is only watched/,
    );
  });
  test('a port that there cannot be is refused at its place', () => {
    expect(() => parse(`${SMALL}  port_range: 20-10\n`)).toThrow(
      /^agent\.yaml:\d+:15: restore\.port_range: /,
    );
    expect(() => parse(SMALL.replace(/^coordinator: .*$/m, 'coordinator: a:70000'))).toThrow(
      /^agent\.yaml:2:14: coordinator: a port is at most 65535$/,
    );
  });

  test('a user that does not exist is INVALID_CONFIG', async () => {
    await expect(restoreSettings(parse(`${SMALL}  run_as: no_such_user_here\n`))).rejects.toMatchObject({
      code: 'INVALID_CONFIG',
    });
  });
});

describe('the state directory', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await makeTestDirectory('state');
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  test('keeps the UUID and the restored instances over a restart', async () => {
    const first = await AgentState.open(`${directory}/s`);
    await first.addRestored({
      name: 'copy',
      tenant: 'copy',
      tenantId: 1002n,
      partitionGroup: 'p0',
      host: '127.0.0.1',
      port: 15_432,
      dataDirectory: '/restore/copy',
    });
    const second = await AgentState.open(`${directory}/s`);
    expect(second.agentUuid).toBe(first.agentUuid);
    expect(second.restoredInstances(undefined)).toEqual(first.restoredInstances(undefined));
    expect(second.restoredInstances(undefined)[0]).toMatchObject({ name: 'copy', restoredTenantId: 1002n });
  });
});

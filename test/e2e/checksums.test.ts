import { expect, test } from 'vitest';
import { readServerState } from '../../cli/demo/database-state.ts';
import { findDifferences } from '../support/compare.ts';
import { majors } from '../support/majors.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  formatInstant,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';

test.each(majors(17))(
  'PostgreSQL %i: a server without page checksums is backed up and restored, and stays without them',
  async (major) => {
    await using scenario = await startArchivedShop({ major, checksums: false });
    const { server, deployment } = scenario;
    await createPool(deployment);
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const before = await readServerState((database) => server.connect(database));
    const instant = formatInstant(await clockUs(server));
    await deployment.sql(
      `ALTER SYSTEM RESTORE TENANT copy FROM ${TENANT} UNTIL TIME = '${instant}' WITH 'pool_list=spare' WAIT`,
    );
    const { port } = await deployment.restored('copy');
    const client = await connectorTo(port)('postgres');
    expect((await client.query('SHOW data_checksums')).rows).toEqual([{ data_checksums: 'off' }]);
    await client.end();
    expect(await findDifferences(connectorTo(port), before)).toEqual([]);
  },
);

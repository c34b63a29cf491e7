import { rm } from 'node:fs/promises';
import { setTimeout as wait } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { startWorkload } from '../../cli/demo/workload.ts';
import { findUnsoundness } from '../support/compare.ts';
import { stopServersBelow } from '../support/holdfast-processes.ts';
import { majors } from '../support/majors.ts';
import { createRandom } from '../support/random.ts';
import {
  clockUs,
  connectorTo,
  createPool,
  DATABASE,
  formatInstant,
  startArchivedShop,
  TENANT,
} from '../support/scenario.ts';
import { judgeRestore } from '../support/workload.ts';

const INSTANTS = 20;
/** The span over which the instants lie. */
const WORKLOAD_MS = 10_000;

test.each(majors(17))(
  'PostgreSQL %i: at each of twenty random instants every commit acknowledged before is there and none sent after',
  async (major) => {
    const random = createRandom('twenty instants');
    await using scenario = await startArchivedShop({ major });
    const { server, deployment } = scenario;
    await createPool(deployment);
    await using workload = await startWorkload({ connect: () => server.connect(DATABASE), clients: 4 });
    await deployment.sql('ALTER SYSTEM BACKUP DATABASE WAIT');
    const from = await clockUs(server);
    await wait(WORKLOAD_MS);
    await workload.stop();
    const until = await clockUs(server);
    // A few stand right behind an acknowledgement, where being wrong by one record shows.
    const acknowledged = workload.log
      .flatMap((record) => record.acknowledgedUs ?? [])
      .filter((timeUs) => timeUs > from && timeUs < until);
    const instants = Array.from({ length: INSTANTS }, (_, number) =>
      number % 4 === 0
        ? (acknowledged[random.between(0, acknowledged.length)] ?? from)
        : from + BigInt(random.between(0, Number(until - from))),
    ).toSorted((a, b) => Number(a - b));

    for (const [number, instant] of instants.entries()) {
      const tenant = `copy_${number}`;
      await deployment.sql(
        `ALTER SYSTEM RESTORE TENANT ${tenant} FROM ${TENANT} UNTIL TIME = '${formatInstant(instant)}' WITH 'pool_list=spare' WAIT`,
      );
      const { port, dataDirectory } = await deployment.restored(tenant);
      const copy = await connectorTo(port)(DATABASE);
      expect(await judgeRestore(copy, workload.log, instant), formatInstant(instant)).toEqual([]);
      await copy.end();
      if (number % 5 === 0) expect(await findUnsoundness(connectorTo(port))).toEqual([]);
      await stopServersBelow(dataDirectory);
      await rm(dataDirectory, { recursive: true, force: true });
    }
  },
  900_000,
);

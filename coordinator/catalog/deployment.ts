/** Which deployment this catalog belongs to. */
import { randomUUID } from 'node:crypto';
import { HoldfastError } from '../../foundation/errors.ts';
import type { Queryable } from './catalog.ts';
import { insertRow } from './rows.ts';

export type Deployment = {
  readonly deploymentUuid: string;
  readonly clusterName: string;
  readonly clusterId: bigint;
};

/** Reads the deployment, and makes it at the first start. Throws INVALID_CONFIG when the configuration names another cluster. */
export async function openDeployment(
  tx: Queryable,
  clusterName: string,
  clusterId: bigint,
): Promise<Deployment> {
  const rows = await tx.query<{ deployment_uuid: string; cluster_name: string; cluster_id: bigint }>(
    'SELECT deployment_uuid, cluster_name, cluster_id FROM holdfast.deployment',
  );
  const row = rows[0];
  if (row === undefined) {
    const deploymentUuid = randomUUID();
    await insertRow(
      tx,
      'deployment',
      { deployment_uuid: deploymentUuid, cluster_name: clusterName, cluster_id: clusterId },
      'one',
    );
    return { deploymentUuid, clusterName, clusterId };
  }
  if (row.cluster_name !== clusterName || row.cluster_id !== clusterId) {
    throw new HoldfastError(
      'INVALID_CONFIG',
      `the catalog belongs to cluster ${row.cluster_name} (${row.cluster_id}), the configuration names ${clusterName} (${clusterId})`,
      { hint: 'Set cluster_name and cluster_id back, or use another data_directory or catalog.' },
    );
  }
  return { deploymentUuid: row.deployment_uuid, clusterName, clusterId };
}

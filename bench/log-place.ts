/** Where replayed log stands at a destination. */
export const LOG_PLACE = {
  root: { clusterName: 'bench', clusterId: 1n },
  round: { tenantId: 1n, round: 1n },
  group: 'g',
} as const;

import { expect, test } from 'vitest';
import { judgeInstances } from '../../../coordinator/agents/membership.ts';
import type { InstanceRow } from '../../../coordinator/catalog/servers.ts';
import type { PartitionGroup, Tenant } from '../../../coordinator/catalog/tenants.ts';

const ORDERS = 1001n;
const PAYMENTS = 1002n;
const COPY = 1003n;

function tenant(tenant_id: bigint, tenant_name: string, more: Partial<Tenant> = {}): Tenant {
  return {
    tenant_id,
    tenant_name,
    status: 'NORMAL',
    created_us: 1n,
    dropped_us: 0n,
    restored_by_job: null,
    ...more,
  };
}

function group(tenant_id: bigint, joined_us: bigint, more: Partial<PartitionGroup> = {}): PartitionGroup {
  return { tenant_id, partition_group: 'p0', joined_us, left_us: 0n, system_identifier: '0', ...more };
}

function instance(
  name: string,
  tenant_id: bigint | null,
  system: string,
  more: Partial<InstanceRow> = {},
): InstanceRow {
  return {
    server_id: 1n,
    instance: name,
    tenant_id,
    partition_group: tenant_id === null ? '' : 'p0',
    restored: false,
    role: 'PRIMARY',
    system_identifier: system,
    timeline: 1n,
    lsn: null,
    max_slot_wal_keep_size: '',
    idle_slot_timeout: '',
    advice: '',
    server_version: '17.0',
    error: '',
    host: '127.0.0.1',
    port: 5432,
    data_directory: `/data/${name}`,
    membership: 'MEMBER',
    clone_of: '',
    ...more,
  };
}

const TENANTS = [
  tenant(ORDERS, 'orders'),
  tenant(PAYMENTS, 'payments'),
  tenant(COPY, 'copy', { restored_by_job: 9n }),
];
const GROUPS = [group(ORDERS, 20n), group(PAYMENTS, 30n), group(COPY, 10n)];

/** `name: membership[ of clone_of]` for each instance. */
function judge(
  instances: readonly InstanceRow[],
  groups: readonly PartitionGroup[] = GROUPS,
  tenants: readonly Tenant[] = TENANTS,
): readonly string[] {
  return judgeInstances({ instances, groups, tenants }).map(
    ({ instance: row, membership, cloneOf }) =>
      `${row.instance}: ${membership}${cloneOf === '' ? '' : ` of ${cloneOf}`}`,
  );
}

test('an instance that is declared for no tenant is a clone when its identifier is known, whatever its timeline', () => {
  const primary = instance('a', ORDERS, '7');
  expect(judge([primary, instance('b', null, '7', { timeline: 9n })])).toEqual([
    'a: MEMBER',
    'b: UNASSIGNED CLONE of orders.p0',
  ]);
  expect(judge([primary, instance('b', null, '8'), instance('c', null, '0')])).toEqual([
    'a: MEMBER',
    'b: UNASSIGNED',
    'c: UNASSIGNED',
  ]);
});

test('what was archived is known when its server is gone; a dropped tenant is not', () => {
  const groups = [group(ORDERS, 20n, { system_identifier: '7', left_us: 25n })];
  const clone = instance('b', null, '7');
  expect(judge([clone], groups)).toEqual(['b: UNASSIGNED CLONE of orders.p0']);
  expect(judge([clone], groups, [tenant(ORDERS, 'orders', { status: 'DROPPED' })])).toEqual([
    'b: UNASSIGNED',
  ]);
});

test('of two tenants with one identifier the one declared later is the clone, unless it was archived', () => {
  const both = [instance('b', PAYMENTS, '7'), instance('a', ORDERS, '7')];
  expect(judge(both)).toEqual(['b: UNASSIGNED CLONE of orders.p0', 'a: MEMBER']);
  const archived = [group(ORDERS, 20n), group(PAYMENTS, 30n, { system_identifier: '7' })];
  expect(judge(both, archived)).toEqual(['b: MEMBER', 'a: UNASSIGNED CLONE of payments.p0']);
});

test('so of two partition groups of one tenant', () => {
  const groups = [group(ORDERS, 20n), group(ORDERS, 30n, { partition_group: 'p1' })];
  expect(
    judge([instance('a', ORDERS, '7'), instance('b', ORDERS, '7', { partition_group: 'p1' })], groups),
  ).toEqual(['a: MEMBER', 'b: UNASSIGNED CLONE of orders.p0']);
});

test('members of one group share their identifier, and a member that was made anew has one of its own', () => {
  const groups = [group(ORDERS, 20n, { system_identifier: '7' })];
  expect(
    judge(
      [instance('a', ORDERS, '7'), instance('b', ORDERS, '7', { timeline: 2n }), instance('c', ORDERS, '8')],
      groups,
    ),
  ).toEqual(['a: MEMBER', 'b: MEMBER', 'c: MEMBER']);
});

test('a tenant that RESTORE made has its identifier by right, before and after it is declared by hand', () => {
  const source = instance('a', ORDERS, '7');
  for (const restored of [true, false])
    expect(judge([source, instance('copy', COPY, '7', { restored })])).toEqual(['a: MEMBER', 'copy: MEMBER']);
  // A catalog that was lost knows of the RESTORE from its agent only.
  const forgotten = [tenant(ORDERS, 'orders'), tenant(COPY, 'copy')];
  expect(judge([source, instance('copy', COPY, '7', { restored: true })], GROUPS, forgotten)).toEqual([
    'a: MEMBER',
    'copy: MEMBER',
  ]);
});

test('a restored tenant makes no clone of its source', () => {
  expect(judge([instance('copy', COPY, '7', { restored: true }), instance('a', ORDERS, '7')])).toEqual([
    'copy: MEMBER',
    'a: MEMBER',
  ]);
  expect(judge([instance('copy', COPY, '7', { restored: true }), instance('b', null, '7')])).toEqual([
    'copy: MEMBER',
    'b: UNASSIGNED CLONE of copy.p0',
  ]);
});

test('a restored server that is declared as a member of its source is none', () => {
  const restored = instance('copy', COPY, '7', { restored: true, data_directory: '/restored/copy' });
  const again = instance('b', ORDERS, '7', { data_directory: '/restored/copy', timeline: 2n });
  expect(judge([instance('a', ORDERS, '7'), restored, again])).toEqual([
    'a: MEMBER',
    'copy: MEMBER',
    'b: UNASSIGNED CLONE of copy.p0',
  ]);
  // The same path on another node is another server.
  expect(judge([instance('a', ORDERS, '7'), restored, { ...again, server_id: 2n }])).toEqual([
    'a: MEMBER',
    'copy: MEMBER',
    'b: MEMBER',
  ]);
});

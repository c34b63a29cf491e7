/** What a fake agent says of its instances from time to time. */
import { create } from '@bufbuild/protobuf';
import { toLsn } from '../../foundation/lsn.ts';
import {
  type AgentMessage,
  AgentMessageSchema,
  InstanceRole,
  type KeptSlot,
} from '../../proto/gen/holdfast/v1/agent_pb.ts';
import type { FakeAgentOptions } from './fake-agent.ts';

/** Where the log of every fake agent begins. */
export const LOG_BEGIN = toLsn(0x3000000n);

export function instanceOf({ groups, instance }: FakeAgentOptions, partitionGroup: string): string {
  return instance ?? (groups === undefined || partitionGroup === 'p0' ? 'main' : partitionGroup);
}

/** It drops at once what it is ordered to drop. */
export function heartbeat(
  options: FakeAgentOptions,
  groups: readonly string[],
  systemOfGroup: (partitionGroup: string) => bigint,
  orders: readonly KeptSlot[],
): AgentMessage['kind'] {
  return create(AgentMessageSchema, {
    kind: {
      case: 'heartbeat',
      value: {
        timeUs: BigInt(Date.now()) * 1000n,
        instances: groups.map((partitionGroup) => ({
          tenant: options.tenant,
          partitionGroup,
          instance: instanceOf(options, partitionGroup),
          role: InstanceRole.PRIMARY,
          systemIdentifier: systemOfGroup(partitionGroup),
          timeline: 1,
          lsn: LOG_BEGIN,
          serverVersion: '17.0',
          postgresMajor: 17,
          host: '127.0.0.1',
          port: 5432,
          dataDirectory: '/data',
          ...options.instanceStatus,
        })),
        droppedSlots: orders
          .filter(({ lsn }) => lsn === 0n)
          .slice(-10)
          .map((order) => ({ instance: order.instance, slotName: order.slotName })),
      },
    },
  }).kind;
}

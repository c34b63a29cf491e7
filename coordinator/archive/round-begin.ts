/** What is written of a round's beginning: its own, and where each partition group's log begins. Pure. */
import { create } from '@bufbuild/protobuf';
import { parseLsn } from '../../foundation/lsn.ts';
import {
  type RoundBegin,
  RoundBeginSchema,
  type RoundGroupStart,
  RoundGroupStartSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { modeOfName } from '../../storage-layout/encryption/key-records.ts';
import type { Round, RoundGroup } from '../catalog/rounds.ts';

/** The round begins when the last of its groups has. */
export function roundBegin(round: Round, groups: readonly RoundGroup[]): RoundBegin {
  return create(RoundBeginSchema, {
    tenantId: round.tenant_id,
    tenantName: round.tenant_name,
    round: round.round,
    encryptionMode: modeOfName(round.encryption_mode),
    beginUs: groups.reduce((latest, group) => (group.start_us > latest ? group.start_us : latest), 0n),
    groups: groups.map(groupStart),
  });
}

/** Of a group whose archiver has reported its start. */
export function groupStart(group: RoundGroup): RoundGroupStart {
  return create(RoundGroupStartSchema, {
    partitionGroup: group.partition_group,
    systemIdentifier: BigInt(group.system_identifier),
    start: { timeline: Number(group.start_timeline), lsn: parseLsn(group.start_lsn ?? '0/0') },
    segmentSizeBytes: Number(group.segment_size_bytes),
    postgresMajor: group.postgres_major,
    startUs: group.start_us,
  });
}

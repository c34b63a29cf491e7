/** Which protobuf message is the payload of which record type, and both directions between message and payload. */
import { type DescMessage, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { assert } from '../../foundation/assert.ts';
import {
  BackupInfoSchema,
  BackupMetaSchema,
  ClogBackupInfoListSchema,
  ClusterOwnerSchema,
  DataBackupInfoListSchema,
  DirectoryListSchema,
  FileListSchema,
  KeyRecordSchema,
  LogFileInfoSchema,
  LogIndexInfoSchema,
  MacroBlockFileInfoSchema,
  MetaIndexSchema,
  MountFileSchema,
  NoteSchema,
  PartitionGroupListSchema,
  RoundBeginSchema,
  RoundEndSchema,
  RoundMemberBeginSchema,
  RoundMemberJoinedSchema,
  RoundMemberLeftSchema,
  ServerClogInfoSchema,
  SubTaskIndexInfoSchema,
  TenantDiagnoseInfoSchema,
  TenantInfoListSchema,
  TenantLocalityInfoSchema,
  TenantNameInfoListSchema,
} from '../../proto/gen/holdfast/v1/records_pb.ts';
import { corrupt, type RecordSource } from './header.ts';
import { RECORD, type RecordType } from './types.ts';

const MESSAGES: readonly (readonly [DescMessage, RecordType])[] = [
  [ClusterOwnerSchema, RECORD.clusterOwner],
  [TenantInfoListSchema, RECORD.tenantInfo],
  [TenantNameInfoListSchema, RECORD.tenantNameInfo],
  [ServerClogInfoSchema, RECORD.serverClogInfo],
  [MountFileSchema, RECORD.mountFile],
  [RoundBeginSchema, RECORD.roundBegin],
  [RoundEndSchema, RECORD.roundEnd],
  [RoundMemberJoinedSchema, RECORD.roundMemberJoined],
  [RoundMemberBeginSchema, RECORD.roundMemberBegin],
  [RoundMemberLeftSchema, RECORD.roundMemberLeft],
  [ClogBackupInfoListSchema, RECORD.clogBackupInfo],
  [DataBackupInfoListSchema, RECORD.dataBackupInfo],
  [PartitionGroupListSchema, RECORD.partitionGroupList],
  [BackupInfoSchema, RECORD.backupInfo],
  [TenantLocalityInfoSchema, RECORD.tenantLocalityInfo],
  [TenantDiagnoseInfoSchema, RECORD.tenantDiagnoseInfo],
  [NoteSchema, RECORD.note],
  [KeyRecordSchema, RECORD.keyRecord],
  [BackupMetaSchema, RECORD.backupMeta],
  [FileListSchema, RECORD.fileList],
  [DirectoryListSchema, RECORD.directoryList],
  [MetaIndexSchema, RECORD.metaIndex],
  [MacroBlockFileInfoSchema, RECORD.macroBlockFile],
  [SubTaskIndexInfoSchema, RECORD.subTaskIndex],
  [LogFileInfoSchema, RECORD.logFile],
  [LogIndexInfoSchema, RECORD.logIndex],
];
const TYPE_BY_NAME = new Map(MESSAGES.map(([schema, type]) => [schema.typeName, type]));
const SCHEMA_BY_TYPE = new Map(MESSAGES.map(([schema, type]) => [type, schema]));

/** The record type whose payload is `schema`'s message. */
export function recordTypeOf(schema: DescMessage): RecordType {
  const type = TYPE_BY_NAME.get(schema.typeName);
  assert(type !== undefined, `${schema.typeName} is the payload of a record type`);
  return type;
}

/** The message of a record type, undefined for types whose payload is none. */
export function schemaOf(type: RecordType): DescMessage | undefined {
  return SCHEMA_BY_TYPE.get(type);
}

/** The message as a record's payload. */
export function encodeMessage<Desc extends DescMessage>(
  schema: Desc,
  message: MessageShape<Desc>,
): Uint8Array {
  return toBinary(schema, message);
}

/** The message of a payload. Throws DATA_CORRUPT, naming the file and the record's position. */
export function decodeMessage<Desc extends DescMessage>(
  schema: Desc,
  payload: Uint8Array,
  offset: number,
  source: RecordSource,
): MessageShape<Desc> {
  try {
    return fromBinary(schema, payload);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw corrupt(source, offset, `not a ${schema.typeName}: ${reason}`);
  }
}

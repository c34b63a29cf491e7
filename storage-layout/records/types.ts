/** Every record type of the format, by name. The numbers are part of the format and never change or return. */

export const RECORD = {
  fileHeader: 1,
  fileEnd: 2,
  // one record, one file
  clusterOwner: 16,
  tenantInfo: 17,
  tenantNameInfo: 18,
  serverClogInfo: 19,
  mountFile: 20,
  roundBegin: 21,
  roundEnd: 22,
  clogBackupInfo: 23,
  dataBackupInfo: 24,
  partitionGroupList: 25,
  backupInfo: 26,
  tenantLocalityInfo: 27,
  tenantDiagnoseInfo: 28,
  timelineHistory: 29,
  roundMemberJoined: 30,
  roundMemberBegin: 31,
  roundMemberLeft: 32,
  note: 33,
  keyRecord: 34,
  // records of a meta file and its index
  backupMeta: 48,
  fileList: 49,
  directoryList: 50,
  metaIndex: 51,
  // macroblocks
  macroBlock: 64,
  macroBlockIndex: 65,
  macroBlockFile: 66,
  subTaskIndex: 67,
  // the log
  logFile: 80,
  logBlock: 81,
  logCheckpoint: 82,
  logIndex: 83,
  logIndexBlocks: 84,
  logIndexChanges: 85,
} as const;

export type RecordName = keyof typeof RECORD;
export type RecordType = (typeof RECORD)[RecordName];

// Object.entries of a const table: the names are exactly its keys.
const NAMES: ReadonlyMap<number, RecordName> = new Map(
  Object.entries(RECORD).map(([name, type]) => [type, name as RecordName]),
);

/** The name of a record type, undefined for a number that this version does not know. */
export function recordName(type: number): RecordName | undefined {
  return NAMES.get(type);
}

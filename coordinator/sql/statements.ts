/**
 * The admin statements as the parser gives them: one tagged union. Names are folded as SQL folds them (lower case
 * unless quoted); strings are unescaped. Nothing here has been checked against the catalog.
 *
 * OceanBase 3.x statements that name no tenant mean every tenant: `tenants` is then 'all'.
 */
import type { Lsn } from '../../foundation/lsn.ts';

/** `ALL`, or no TENANT clause: 'all'. Else at least one name, as written, without duplicates. */
export type TenantNames = 'all' | readonly string[];

/** A log position of the whole tenant (`group` undefined: its only partition group) or of one group. */
export type ScnPosition = { readonly group: string | undefined; readonly lsn: Lsn };

export type RestoreTarget =
  /** `UNTIL '<ts>'` or `UNTIL TIME = '<ts>' [CONSISTENT]`; the text is not interpreted here. */
  | { readonly kind: 'time'; readonly time: string; readonly consistent: boolean }
  | { readonly kind: 'scn'; readonly positions: readonly ScnPosition[] }
  | { readonly kind: 'xid'; readonly xid: bigint }
  | { readonly kind: 'name'; readonly name: string }
  | { readonly kind: 'immediate' };

export type RestoreStatement = {
  readonly kind: 'restore';
  readonly newTenant: string;
  /** undefined: the 4.x form `FROM '<uri>'`, which names no tenant; `at` is then set. */
  readonly sourceTenant: string | undefined;
  readonly at?: string;
  readonly backupSet?: bigint;
  /** undefined: the end of the log. */
  readonly until?: RestoreTarget;
  /** As written: INCLUSIVE true, EXCLUSIVE false. */
  readonly inclusive?: boolean;
  readonly timeline?: number;
  /** The conninfo of `AS STANDBY OF`. */
  readonly standbyOf?: string;
  /** Of `WITH 'k=v&k=v'`, keys in lower case, values percent-decoded; no key twice. */
  readonly options: Readonly<Record<string, string>>;
  readonly description?: string;
  readonly preview: boolean;
  readonly wait: boolean;
};

export type ResourceUnitStatement = {
  readonly kind: 'createResourceUnit';
  readonly name: string;
  /** Sizes as written: `1G`, or a number of bytes. */
  readonly maxMemory?: string;
  readonly minMemory?: string;
  readonly maxDiskSize?: string;
  readonly maxSessionNum?: number;
  readonly maxIops?: number;
  readonly minIops?: number;
  /** May be fractional. */
  readonly maxCpu?: number;
  readonly minCpu?: number;
};

/** What a statement about existing backups is about. */
export type BackupObject =
  | { readonly kind: 'backupSet'; readonly id: bigint }
  | { readonly kind: 'backupRound'; readonly id: bigint }
  | { readonly kind: 'backupPiece'; readonly id: bigint };

export type KeepRule =
  | { readonly kind: 'forever' }
  | { readonly kind: 'until'; readonly time: string }
  | { readonly kind: 'off' };

/** Statements of this version. */
export type CurrentStatement =
  | {
      readonly kind: 'setParameter';
      readonly name: string;
      /** The text of a string, a number or a bare word. */
      readonly value: string;
      readonly tenant?: string;
    }
  | { readonly kind: 'showParameters'; readonly like?: string; readonly tenant?: string }
  | { readonly kind: 'archiveLog'; readonly tenants: TenantNames; readonly description?: string }
  | { readonly kind: 'noArchiveLog'; readonly tenants: TenantNames; readonly description?: string }
  | {
      readonly kind: 'backup';
      readonly mode: 'full' | 'incremental' | 'synthetic';
      readonly tenants: TenantNames;
      readonly to?: string;
      readonly plusArchivelog: boolean;
      readonly description?: string;
      readonly wait: boolean;
    }
  /** `force`: CANCEL ALL BACKUP FORCE. */
  | { readonly kind: 'cancelBackup'; readonly tenants: TenantNames; readonly force: boolean }
  | RestoreStatement
  | { readonly kind: 'cancelRestore'; readonly tenant: string }
  | { readonly kind: 'showRestoreWindows'; readonly tenant?: string }
  | { readonly kind: 'showRestorePreview' }
  | { readonly kind: 'check'; readonly tenant?: string; readonly wait: boolean }
  | ResourceUnitStatement
  | {
      readonly kind: 'createResourcePool';
      readonly name: string;
      readonly unit: string;
      readonly unitNum: number;
      readonly zones: readonly string[];
    }
  | { readonly kind: 'dropResourceUnit'; readonly name: string }
  | { readonly kind: 'dropResourcePool'; readonly name: string }
  | { readonly kind: 'dropTenant'; readonly tenant: string; readonly force: boolean }
  /** `object` undefined: VALIDATE DATABASE or VALIDATE TENANT = …. */
  | {
      readonly kind: 'validate';
      readonly object?: BackupObject;
      readonly copy?: number;
      readonly tenants: TenantNames;
      readonly maxAge?: string;
      readonly wait: boolean;
    }
  | { readonly kind: 'cancelValidate'; readonly job: bigint }
  /** Wraps the data keys anew. */
  | { readonly kind: 'rotateBackupKey'; readonly tenants: TenantNames }
  /** `password` undefined: SET ENCRYPTION OFF. `only`: the password alone opens the backup, the key file does not. */
  | { readonly kind: 'setEncryption'; readonly password?: string; readonly only: boolean }
  /** The passwords to try when reading encrypted sets. */
  | { readonly kind: 'setDecryption'; readonly passwords: readonly string[] };

/** Statements whose capability a later version adds: parsed, so that they can be refused by name. */
export type LaterStatement =
  | {
      readonly kind: 'addBackupSchedule';
      readonly name: string;
      readonly tenants: TenantNames;
      readonly full?: string;
      readonly incremental?: string;
      readonly timezone?: string;
    }
  | {
      readonly kind: 'changeBackupSchedule';
      readonly action: 'drop' | 'pause' | 'resume';
      readonly name: string;
      readonly tenants: TenantNames;
    }
  | {
      readonly kind: 'addDeletePolicy';
      readonly name: string;
      readonly recoveryWindow?: string;
      readonly redundancy?: number;
      readonly backupCopies?: number;
      readonly tenants: TenantNames;
    }
  | { readonly kind: 'dropDeletePolicy'; readonly name: string; readonly tenants: TenantNames }
  | {
      readonly kind: 'deleteBackup';
      readonly object: BackupObject;
      readonly copy?: number;
      readonly tenants: TenantNames;
      readonly preview: boolean;
    }
  /** `expired`: the 3.x form DELETE EXPIRED BACKUP. */
  | {
      readonly kind: 'deleteObsoleteBackup';
      readonly expired: boolean;
      readonly copy?: number;
      readonly tenants: TenantNames;
      readonly preview: boolean;
    }
  | { readonly kind: 'cancelDeleteBackup'; readonly tenants: TenantNames }
  | {
      readonly kind: 'changeBackupSetKeep';
      readonly id: bigint;
      readonly keep: KeepRule;
      readonly tenants: TenantNames;
    }
  /** BACKUP BACKUPSET or BACKUPPIECE; both `id` and `notBackedUpTimes` undefined: ALL. */
  | {
      readonly kind: 'backupBackup';
      readonly what: 'backupSet' | 'backupPiece';
      readonly id?: bigint;
      readonly notBackedUpTimes?: number;
      readonly withActive: boolean;
      readonly tenants: TenantNames;
      readonly to?: string;
      readonly wait: boolean;
    }
  | { readonly kind: 'cancelBackupBackup'; readonly what: 'backupSet' | 'backupPiece' }
  | { readonly kind: 'backupArchivelogCopy'; readonly action: 'start' | 'stop' }
  | { readonly kind: 'createRestorePoint'; readonly name: string; readonly tenants: TenantNames }
  | { readonly kind: 'addRestoreSource'; readonly uris: readonly string[] }
  | { readonly kind: 'clearRestoreSource' }
  | { readonly kind: 'importBackup'; readonly from: string }
  /** An OceanBase statement that Holdfast knows by name only: what stands behind ALTER SYSTEM (RECOVER, BACKUP KEY, …). */
  | { readonly kind: 'knownByName'; readonly name: string };

export type AdminStatement = CurrentStatement | LaterStatement;
export type StatementOf<K extends AdminStatement['kind']> = Extract<AdminStatement, { readonly kind: K }>;

/** `ALTER SYSTEM ARCHIVELOG` of each kind: what messages and command tags call a statement. */
export const STATEMENT_NAMES = {
  setParameter: 'ALTER SYSTEM SET',
  showParameters: 'SHOW PARAMETERS',
  archiveLog: 'ALTER SYSTEM ARCHIVELOG',
  noArchiveLog: 'ALTER SYSTEM NOARCHIVELOG',
  backup: 'ALTER SYSTEM BACKUP',
  cancelBackup: 'ALTER SYSTEM CANCEL BACKUP',
  restore: 'ALTER SYSTEM RESTORE',
  cancelRestore: 'ALTER SYSTEM CANCEL RESTORE',
  showRestoreWindows: 'SHOW RESTORE WINDOWS',
  showRestorePreview: 'SHOW RESTORE PREVIEW',
  check: 'ALTER SYSTEM CHECK',
  createResourceUnit: 'CREATE RESOURCE UNIT',
  createResourcePool: 'CREATE RESOURCE POOL',
  dropResourceUnit: 'DROP RESOURCE UNIT',
  dropResourcePool: 'DROP RESOURCE POOL',
  dropTenant: 'ALTER SYSTEM DROP TENANT',
  rotateBackupKey: 'ALTER SYSTEM ROTATE BACKUP KEY',
  setEncryption: 'SET ENCRYPTION',
  setDecryption: 'SET DECRYPTION',
  addBackupSchedule: 'ALTER SYSTEM ADD BACKUP SCHEDULE',
  changeBackupSchedule: 'ALTER SYSTEM … BACKUP SCHEDULE',
  addDeletePolicy: 'ALTER SYSTEM ADD DELETE BACKUP POLICY',
  dropDeletePolicy: 'ALTER SYSTEM DROP DELETE BACKUP POLICY',
  deleteBackup: 'ALTER SYSTEM DELETE BACKUPSET',
  deleteObsoleteBackup: 'ALTER SYSTEM DELETE OBSOLETE BACKUP',
  cancelDeleteBackup: 'ALTER SYSTEM CANCEL DELETE BACKUP',
  changeBackupSetKeep: 'ALTER SYSTEM CHANGE BACKUPSET',
  validate: 'ALTER SYSTEM VALIDATE',
  cancelValidate: 'ALTER SYSTEM CANCEL VALIDATE',
  backupBackup: 'ALTER SYSTEM BACKUP BACKUPSET',
  cancelBackupBackup: 'ALTER SYSTEM CANCEL BACKUP BACKUPSET',
  backupArchivelogCopy: 'ALTER SYSTEM START BACKUP ARCHIVELOG',
  createRestorePoint: 'ALTER SYSTEM CREATE RESTORE POINT',
  addRestoreSource: 'ALTER SYSTEM ADD RESTORE SOURCE',
  clearRestoreSource: 'ALTER SYSTEM CLEAR RESTORE SOURCE',
  importBackup: 'ALTER SYSTEM IMPORT BACKUP',
  knownByName: 'ALTER SYSTEM',
} as const satisfies Record<AdminStatement['kind'], string>;

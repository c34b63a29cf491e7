/** Statements about backups that exist: schedules, deletion, keeping, validation, copies. */

import type { AdminStatement, BackupObject, KeepRule, StatementOf } from '../statements.ts';
import { withFields } from './fields.ts';
import { Equals, K } from './lexer.ts';
import { RestoreRules } from './restore-rules.ts';

export class LifeRules extends RestoreRules {
  backupObject = this.RULE('backupObject', (): BackupObject => {
    const kind = this.OR([
      { ALT: () => (this.CONSUME(K.BACKUPSET), 'backupSet' as const) },
      { ALT: () => (this.CONSUME(K.BACKUPROUND), 'backupRound' as const) },
      { ALT: () => (this.CONSUME(K.BACKUPPIECE), 'backupPiece' as const) },
    ]);
    this.OPTION(() => this.CONSUME(Equals));
    return { kind, id: this.SUBRULE(this.id) };
  });

  /** Behind `ALTER SYSTEM DELETE`. */
  deleteBackup = this.RULE(
    'deleteBackup',
    (): AdminStatement =>
      this.OR([
        {
          ALT: (): AdminStatement => {
            const object = this.SUBRULE(this.backupObject);
            const copy = this.SUBRULE(this.copy);
            const tenants = this.SUBRULE(this.tenants);
            const preview = this.SUBRULE(this.preview);
            return withFields<StatementOf<'deleteBackup'>>({
              kind: 'deleteBackup',
              object,
              copy,
              tenants,
              preview,
            });
          },
        },
        {
          ALT: (): AdminStatement => {
            const expired = this.OR2([
              { ALT: () => (this.CONSUME(K.OBSOLETE), false) },
              { ALT: () => (this.CONSUME(K.EXPIRED), true) },
            ]);
            this.CONSUME(K.BACKUP);
            const copy = this.SUBRULE2(this.copy);
            const tenants = this.SUBRULE2(this.tenants);
            const preview = this.SUBRULE2(this.preview);
            return withFields<StatementOf<'deleteObsoleteBackup'>>({
              kind: 'deleteObsoleteBackup',
              expired,
              copy,
              tenants,
              preview,
            });
          },
        },
      ]),
  );

  /** Behind `ALTER SYSTEM CHANGE`. */
  changeKeep = this.RULE('changeKeep', (): AdminStatement => {
    this.CONSUME(K.BACKUPSET);
    this.OPTION(() => this.CONSUME(Equals));
    const id = this.SUBRULE(this.id);
    this.CONSUME(K.KEEP);
    const keep = this.OR([
      { ALT: (): KeepRule => (this.CONSUME(K.FOREVER), { kind: 'forever' }) },
      { ALT: (): KeepRule => (this.CONSUME(K.OFF), { kind: 'off' }) },
      { ALT: (): KeepRule => (this.CONSUME(K.UNTIL), { kind: 'until', time: this.SUBRULE(this.string) }) },
    ]);
    return { kind: 'changeBackupSetKeep', id, keep, tenants: this.SUBRULE(this.tenants) };
  });

  /** Behind `ALTER SYSTEM VALIDATE`. */
  validate = this.RULE('validate', (): AdminStatement => {
    let object: BackupObject | undefined;
    this.OPTION(() =>
      this.OR([
        { ALT: () => this.CONSUME(K.DATABASE) },
        {
          ALT: () => {
            object = this.SUBRULE(this.backupObject);
          },
        },
      ]),
    );
    const copy = this.SUBRULE(this.copy);
    const tenants = this.SUBRULE(this.tenants);
    let maxAge: string | undefined;
    this.OPTION2(() => {
      this.CONSUME(K.MAX_AGE);
      this.OPTION3(() => this.CONSUME(Equals));
      maxAge = this.SUBRULE(this.size);
    });
    const wait = this.SUBRULE(this.wait);
    return withFields<StatementOf<'validate'>>({ kind: 'validate', object, copy, tenants, maxAge, wait });
  });

  /** Behind `ALTER SYSTEM BACKUP`, at BACKUPSET or BACKUPPIECE. */
  backupBackup = this.RULE('backupBackup', (): AdminStatement => {
    const what = this.OR([
      { ALT: () => (this.CONSUME(K.BACKUPSET), 'backupSet' as const) },
      { ALT: () => (this.CONSUME(K.BACKUPPIECE), 'backupPiece' as const) },
    ]);
    const which = this.SUBRULE(this.whichBackups);
    const withActive = this.OPTION(() => (this.CONSUME(K.WITH), this.CONSUME(K.ACTIVE))) !== undefined;
    const tenants = this.SUBRULE(this.copyTenants);
    let to: string | undefined;
    this.OPTION2(() => {
      this.CONSUME(K.BACKUP_BACKUP_DEST);
      this.OPTION3(() => this.CONSUME(Equals));
      to = this.SUBRULE(this.string);
    });
    const wait = this.SUBRULE(this.wait);
    return this.ACTION(() =>
      withFields<StatementOf<'backupBackup'>>({
        kind: 'backupBackup',
        what,
        ...which,
        withActive,
        tenants,
        to,
        wait,
      }),
    );
  });

  /** `ALL`, `ALL NOT BACKED UP k TIMES`, `[=] n`. */
  whichBackups = this.RULE('whichBackups', (): { id?: bigint; notBackedUpTimes?: number } =>
    this.OR([
      {
        ALT: () => {
          this.CONSUME(K.ALL);
          const which: { notBackedUpTimes?: number } = {};
          this.OPTION(() => {
            this.CONSUME(K.NOT);
            this.CONSUME(K.BACKED);
            this.CONSUME(K.UP);
            which.notBackedUpTimes = this.SUBRULE(this.count);
            this.CONSUME(K.TIMES);
          });
          return which;
        },
      },
      {
        ALT: () => {
          this.OPTION2(() => this.CONSUME(Equals));
          return { id: this.SUBRULE(this.id) };
        },
      },
    ]),
  );

  /** The TENANT clause, or 3.x's `TENANT_NAME = 'x'`. */
  copyTenants = this.RULE('copyTenants', () =>
    this.OR([
      {
        ALT: () => {
          this.CONSUME(K.TENANT_NAME);
          this.OPTION(() => this.CONSUME(Equals));
          return [this.SUBRULE(this.nameOrString)];
        },
      },
      { ALT: () => this.SUBRULE(this.tenants) },
    ]),
  );

  /** Behind `ALTER SYSTEM ADD`. */
  add = this.RULE(
    'add',
    (): AdminStatement =>
      this.OR([
        { ALT: () => this.SUBRULE(this.addSource) },
        { ALT: () => this.SUBRULE(this.addSchedule) },
        { ALT: () => this.SUBRULE(this.addPolicy) },
      ]),
  );

  addSource = this.RULE('addSource', (): AdminStatement => {
    this.CONSUME(K.RESTORE);
    this.CONSUME(K.SOURCE);
    return { kind: 'addRestoreSource', uris: this.SUBRULE(this.strings) };
  });

  addSchedule = this.RULE('addSchedule', (): AdminStatement => {
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.SCHEDULE);
    const name = this.SUBRULE(this.nameOrString);
    const tenants = this.SUBRULE(this.tenants);
    let full: string | undefined;
    let incremental: string | undefined;
    let timezone: string | undefined;
    this.OPTION(() => {
      this.CONSUME(K.FULL);
      full = this.SUBRULE(this.string);
    });
    this.OPTION2(() => {
      this.CONSUME(K.INCREMENTAL);
      incremental = this.SUBRULE2(this.string);
    });
    this.OPTION3(() => {
      this.CONSUME(K.TIMEZONE);
      timezone = this.SUBRULE3(this.string);
    });
    return withFields<StatementOf<'addBackupSchedule'>>({
      kind: 'addBackupSchedule',
      name,
      tenants,
      full,
      incremental,
      timezone,
    });
  });

  addPolicy = this.RULE('addPolicy', (): AdminStatement => {
    const name = this.SUBRULE(this.policyName);
    let recoveryWindow: string | undefined;
    let redundancy: number | undefined;
    let backupCopies: number | undefined;
    this.OPTION(() => {
      this.CONSUME(K.RECOVERY_WINDOW);
      recoveryWindow = this.SUBRULE(this.optionSize);
    });
    this.OPTION2(() => {
      this.CONSUME(K.REDUNDANCY);
      redundancy = this.SUBRULE(this.optionCount);
    });
    this.OPTION3(() => {
      this.CONSUME(K.BACKUP_COPIES);
      backupCopies = this.SUBRULE2(this.optionCount);
    });
    const tenants = this.SUBRULE(this.tenants);
    return withFields<StatementOf<'addDeletePolicy'>>({
      kind: 'addDeletePolicy',
      name,
      recoveryWindow,
      redundancy,
      backupCopies,
      tenants,
    });
  });

  /** `DELETE BACKUP POLICY [=] 'default'`. */
  policyName = this.RULE('policyName', (): string => {
    this.CONSUME(K.DELETE);
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.POLICY);
    this.OPTION(() => this.CONSUME(Equals));
    return this.SUBRULE(this.nameOrString);
  });

  /** `BACKUP SCHEDULE '<name>'` behind DROP, PAUSE or RESUME. */
  changeSchedule = this.RULE('changeSchedule', (action: 'drop' | 'pause' | 'resume'): AdminStatement => {
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.SCHEDULE);
    const name = this.SUBRULE(this.nameOrString);
    return { kind: 'changeBackupSchedule', action, name, tenants: this.SUBRULE(this.tenants) };
  });

  /** Behind `ALTER SYSTEM DROP`. */
  drop = this.RULE(
    'drop',
    (): AdminStatement =>
      this.OR([
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.TENANT);
            const tenant = this.SUBRULE(this.nameOrString);
            return {
              kind: 'dropTenant',
              tenant,
              force: this.OPTION(() => this.CONSUME(K.FORCE)) !== undefined,
            };
          },
        },
        { ALT: () => this.SUBRULE(this.changeSchedule, { ARGS: ['drop'] }) },
        {
          ALT: (): AdminStatement => {
            const name = this.SUBRULE(this.policyName);
            return { kind: 'dropDeletePolicy', name, tenants: this.SUBRULE(this.tenants) };
          },
        },
      ]),
  );
}

/** RESTORE, in its 3.x, 4.x and own forms. */
import { parseLsn, toLsn } from '../../../foundation/lsn.ts';
import type { AdminStatement, RestoreTarget, ScnPosition, StatementOf } from '../statements.ts';
import { withFields } from './fields.ts';
import { Dot, Equals, K, NumberLiteral, StringLiteral, stringOf } from './lexer.ts';
import { ResourceRules } from './resource-rules.ts';
import { parseRestoreOptions, parseScnPositions } from './restore-text.ts';

type Source = { readonly sourceTenant: string | undefined; readonly at: string | undefined };
type Until = { readonly until: RestoreTarget; readonly inclusive: boolean | undefined };

export class RestoreRules extends ResourceRules {
  /** Behind `ALTER SYSTEM RESTORE`. */
  restore = this.RULE('restore', (): AdminStatement => {
    this.OPTION(() => this.CONSUME(K.TENANT));
    const newTenant = this.SUBRULE(this.nameOrString);
    return this.OR([
      { ALT: (): AdminStatement => this.SUBRULE(this.restoreTables) },
      { ALT: (): AdminStatement => this.SUBRULE(this.restoreTenant, { ARGS: [newTenant] }) },
    ]);
  });

  /** The 3.x white list `RESTORE db.t1, … FOR t FROM …`: known, and not to be. */
  restoreTables = this.RULE('restoreTables', (): AdminStatement => {
    this.CONSUME(Dot);
    this.SUBRULE(this.name);
    this.SUBRULE(this.remaining);
    return { kind: 'knownByName', name: 'RESTORE of single tables' };
  });

  restoreTenant = this.RULE('restoreTenant', (newTenant: string): AdminStatement => {
    const { sourceTenant, at } = this.SUBRULE(this.restoreSource);
    const backupSet = this.SUBRULE(this.restoreBackupSet);
    let target: Until | undefined;
    this.OPTION(() => {
      target = this.SUBRULE(this.until);
    });
    const timeline = this.SUBRULE(this.restoreTimeline);
    let standbyOf: string | undefined;
    this.OPTION2(() => {
      this.CONSUME(K.AS);
      this.CONSUME(K.STANDBY);
      this.CONSUME(K.OF);
      standbyOf = this.SUBRULE(this.string);
    });
    const options = this.SUBRULE(this.restoreOptions);
    const description = this.SUBRULE(this.description);
    const preview = this.SUBRULE(this.preview);
    const wait = this.SUBRULE(this.wait);
    return this.ACTION(() =>
      withFields<StatementOf<'restore'>>({
        kind: 'restore',
        newTenant,
        sourceTenant,
        at,
        backupSet,
        until: target?.until,
        inclusive: target?.inclusive,
        timeline,
        standbyOf,
        options,
        description,
        preview,
        wait,
      }),
    );
  });

  restoreSource = this.RULE('restoreSource', (): Source => {
    this.CONSUME(K.FROM);
    return this.OR([
      {
        ALT: (): Source => ({ sourceTenant: undefined, at: this.SUBRULE(this.string) }),
      },
      {
        ALT: (): Source => {
          const sourceTenant = this.SUBRULE(this.name);
          let at: string | undefined;
          this.OPTION(() => {
            this.CONSUME(K.AT);
            at = this.SUBRULE2(this.string);
          });
          return { sourceTenant, at };
        },
      },
    ]);
  });

  restoreBackupSet = this.RULE('restoreBackupSet', (): bigint | undefined => {
    let id: bigint | undefined;
    this.OPTION(() => {
      this.CONSUME(K.BACKUPSET);
      this.OPTION2(() => this.CONSUME(Equals));
      id = this.SUBRULE(this.id);
    });
    return id;
  });

  restoreTimeline = this.RULE('restoreTimeline', (): number | undefined => {
    let timeline: number | undefined;
    this.OPTION(() => {
      this.CONSUME(K.TIMELINE);
      this.OPTION2(() => this.CONSUME(Equals));
      timeline = this.SUBRULE(this.count);
    });
    return timeline;
  });

  restoreOptions = this.RULE('restoreOptions', (): Readonly<Record<string, string>> => {
    let options: Readonly<Record<string, string>> = {};
    this.OPTION(() => {
      this.CONSUME(K.WITH);
      const found = this.CONSUME(StringLiteral);
      this.ACTION(() => {
        const parsed = parseRestoreOptions(stringOf(found));
        if (typeof parsed === 'string') this.fail(found, parsed, "Write WITH 'pool_list=p&concurrency=2'.");
        options = parsed;
      });
    });
    return options;
  });

  until = this.RULE('until', (): Until => {
    this.CONSUME(K.UNTIL);
    const until = this.OR([
      { ALT: (): RestoreTarget => ({ kind: 'time', time: this.SUBRULE(this.string), consistent: false }) },
      { ALT: () => this.SUBRULE(this.untilTime) },
      { ALT: () => this.SUBRULE(this.untilScn) },
      {
        ALT: (): RestoreTarget => {
          this.CONSUME(K.XID);
          this.OPTION(() => this.CONSUME(Equals));
          return { kind: 'xid', xid: this.SUBRULE(this.id) };
        },
      },
      {
        ALT: (): RestoreTarget => {
          this.CONSUME(K.NAME);
          this.OPTION2(() => this.CONSUME2(Equals));
          return { kind: 'name', name: this.SUBRULE2(this.string) };
        },
      },
      { ALT: (): RestoreTarget => (this.CONSUME(K.IMMEDIATE), { kind: 'immediate' }) },
    ]);
    let inclusive: boolean | undefined;
    this.OPTION3(() => {
      inclusive = this.OR2([
        { ALT: () => (this.CONSUME(K.INCLUSIVE), true) },
        { ALT: () => (this.CONSUME(K.EXCLUSIVE), false) },
      ]);
    });
    return { until, inclusive };
  });

  untilTime = this.RULE('untilTime', (): RestoreTarget => {
    this.CONSUME(K.TIME);
    this.OPTION(() => this.CONSUME(Equals));
    const time = this.SUBRULE(this.string);
    const consistent = this.OPTION2(() => this.CONSUME(K.CONSISTENT)) !== undefined;
    return { kind: 'time', time, consistent };
  });

  /** A number is the position as an integer, as the views show it beside `X/X`. */
  untilScn = this.RULE('untilScn', (): RestoreTarget => {
    this.CONSUME(K.SCN);
    this.OPTION(() => this.CONSUME(Equals));
    const positions = this.OR([
      {
        ALT: (): readonly ScnPosition[] => {
          const found = this.CONSUME(StringLiteral);
          return this.ACTION(() => {
            const parsed = parseScnPositions(stringOf(found), parseLsn);
            if (typeof parsed === 'string')
              this.fail(found, parsed, "Write SCN = '0/3000148' or 'group:0/3000148,…'.");
            return parsed;
          });
        },
      },
      {
        ALT: (): readonly ScnPosition[] => {
          const found = this.CONSUME(NumberLiteral);
          return this.ACTION(() => {
            if (!/^\d{1,20}$/.test(found.image) || BigInt(found.image) > 0xffff_ffff_ffff_ffffn)
              this.fail(found, `not a log position: ${found.image}`);
            return [{ group: undefined, lsn: toLsn(BigInt(found.image)) }];
          });
        },
      },
    ]);
    return { kind: 'scn', positions };
  });
}

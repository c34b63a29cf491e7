/** Resource units and pools, parameters, session passwords. */

import type { AdminStatement, ResourceUnitStatement, StatementOf } from '../statements.ts';
import { BaseRules } from './base-rules.ts';
import { withFields } from './fields.ts';
import {
  Comma,
  Equals,
  K,
  LeftParen,
  Name,
  NumberLiteral,
  nameOf,
  Quantity,
  RightParen,
  StringLiteral,
  stringOf,
} from './lexer.ts';

type UnitOptions = Omit<ResourceUnitStatement, 'kind' | 'name'>;

export class ResourceRules extends BaseRules {
  /** Behind `ALTER SYSTEM SET`. */
  setParameter = this.RULE('setParameter', (): AdminStatement => {
    const name = this.SUBRULE(this.name);
    this.OR([{ ALT: () => this.CONSUME(Equals) }, { ALT: () => this.CONSUME(K.TO) }]);
    const value = this.SUBRULE(this.parameterValue);
    const tenant = this.SUBRULE(this.oneTenant);
    return withFields<StatementOf<'setParameter'>>({ kind: 'setParameter', name, value, tenant });
  });

  parameterValue = this.RULE('parameterValue', (): string =>
    this.OR([
      { ALT: () => stringOf(this.CONSUME(StringLiteral)) },
      { ALT: () => this.CONSUME(Quantity).image },
      { ALT: () => this.CONSUME(NumberLiteral).image },
      { ALT: () => nameOf(this.CONSUME(Name)) },
    ]),
  );

  /** Behind `SHOW`. */
  show = this.RULE(
    'show',
    (): AdminStatement =>
      this.OR([
        { ALT: () => this.SUBRULE(this.showParameters) },
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.RESTORE);
            this.CONSUME(K.PREVIEW);
            return { kind: 'showRestorePreview' };
          },
        },
        {
          ALT: (): AdminStatement => {
            this.CONSUME2(K.RESTORE);
            this.CONSUME(K.WINDOWS);
            const tenant = this.SUBRULE(this.oneTenant);
            return withFields<StatementOf<'showRestoreWindows'>>({ kind: 'showRestoreWindows', tenant });
          },
        },
      ]),
  );

  showParameters = this.RULE('showParameters', (): AdminStatement => {
    this.CONSUME(K.PARAMETERS);
    let like: string | undefined;
    this.OPTION(() => {
      this.CONSUME(K.LIKE);
      like = this.SUBRULE(this.string);
    });
    const tenant = this.SUBRULE(this.oneTenant);
    return withFields<StatementOf<'showParameters'>>({ kind: 'showParameters', like, tenant });
  });

  /** Behind `CREATE RESOURCE`. */
  createResource = this.RULE(
    'createResource',
    (): AdminStatement =>
      this.OR([{ ALT: () => this.SUBRULE(this.createUnit) }, { ALT: () => this.SUBRULE(this.createPool) }]),
  );

  createUnit = this.RULE('createUnit', (): AdminStatement => {
    const unit = this.CONSUME(K.UNIT);
    const name = this.SUBRULE(this.nameOrString);
    let options: UnitOptions = {};
    this.AT_LEAST_ONE_SEP({
      SEP: Comma,
      DEF: () => {
        const option = this.SUBRULE(this.unitOption);
        this.ACTION(() => {
          const twice = Object.keys(option).find((key) => key in options);
          if (twice !== undefined) this.fail(unit, `resource unit "${name}" has ${twice} twice`);
          options = { ...options, ...option };
        });
      },
    });
    return { kind: 'createResourceUnit', name, ...options };
  });

  unitOption = this.RULE(
    'unitOption',
    (): UnitOptions =>
      this.OR([
        { ALT: () => (this.CONSUME(K.MAX_MEMORY), { maxMemory: this.SUBRULE(this.optionSize) }) },
        { ALT: () => (this.CONSUME(K.MIN_MEMORY), { minMemory: this.SUBRULE2(this.optionSize) }) },
        { ALT: () => (this.CONSUME(K.MAX_DISK_SIZE), { maxDiskSize: this.SUBRULE3(this.optionSize) }) },
        { ALT: () => (this.CONSUME(K.MAX_SESSION_NUM), { maxSessionNum: this.SUBRULE(this.optionCount) }) },
        { ALT: () => (this.CONSUME(K.MAX_IOPS), { maxIops: this.SUBRULE2(this.optionCount) }) },
        { ALT: () => (this.CONSUME(K.MIN_IOPS), { minIops: this.SUBRULE3(this.optionCount) }) },
        { ALT: () => (this.CONSUME(K.MAX_CPU), { maxCpu: this.SUBRULE(this.optionNumber) }) },
        { ALT: () => (this.CONSUME(K.MIN_CPU), { minCpu: this.SUBRULE2(this.optionNumber) }) },
      ]),
  );

  optionSize = this.RULE('optionSize', (): string => {
    this.OPTION(() => this.CONSUME(Equals));
    return this.SUBRULE(this.size);
  });

  optionCount = this.RULE('optionCount', (): number => {
    this.OPTION(() => this.CONSUME(Equals));
    return this.SUBRULE(this.count);
  });

  optionNumber = this.RULE('optionNumber', (): number => {
    this.OPTION(() => this.CONSUME(Equals));
    return this.SUBRULE(this.number);
  });

  createPool = this.RULE('createPool', (): AdminStatement => {
    this.CONSUME(K.POOL);
    const name = this.SUBRULE(this.nameOrString);
    this.CONSUME(K.UNIT);
    this.OPTION(() => this.CONSUME(Equals));
    const unit = this.SUBRULE2(this.nameOrString);
    this.CONSUME(Comma);
    this.CONSUME(K.UNIT_NUM);
    const unitNum = this.SUBRULE(this.optionCount);
    this.CONSUME2(Comma);
    this.CONSUME(K.ZONE_LIST);
    this.OPTION2(() => this.CONSUME2(Equals));
    const zones = this.SUBRULE(this.zoneList);
    return { kind: 'createResourcePool', name, unit, unitNum, zones };
  });

  zoneList = this.RULE('zoneList', (): readonly string[] => {
    const zones: string[] = [];
    this.CONSUME(LeftParen);
    this.AT_LEAST_ONE_SEP({ SEP: Comma, DEF: () => zones.push(this.SUBRULE(this.nameOrString)) });
    this.CONSUME(RightParen);
    return [...new Set(zones)];
  });

  /** Behind `DROP RESOURCE`. */
  dropResource = this.RULE('dropResource', (): AdminStatement => {
    const kind = this.OR([
      { ALT: () => (this.CONSUME(K.UNIT), 'dropResourceUnit' as const) },
      { ALT: () => (this.CONSUME(K.POOL), 'dropResourcePool' as const) },
    ]);
    return { kind, name: this.SUBRULE(this.nameOrString) };
  });

  /** Behind `SET`. */
  setSession = this.RULE(
    'setSession',
    (): AdminStatement =>
      this.OR([
        { ALT: () => this.SUBRULE(this.setEncryption) },
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.DECRYPTION);
            this.CONSUME(K.IDENTIFIED);
            this.CONSUME(K.BY);
            const passwords: string[] = [];
            this.AT_LEAST_ONE_SEP({ SEP: Comma, DEF: () => passwords.push(this.SUBRULE(this.string)) });
            return { kind: 'setDecryption', passwords };
          },
        },
      ]),
  );

  setEncryption = this.RULE('setEncryption', (): AdminStatement => {
    this.CONSUME(K.ENCRYPTION);
    return this.OR([
      { ALT: (): AdminStatement => (this.CONSUME(K.OFF), { kind: 'setEncryption', only: false }) },
      {
        ALT: (): AdminStatement => {
          this.CONSUME(K.ON);
          this.CONSUME(K.IDENTIFIED);
          this.CONSUME(K.BY);
          const password = this.SUBRULE(this.string);
          const only = this.OPTION(() => this.CONSUME(K.ONLY)) !== undefined;
          return { kind: 'setEncryption', password, only };
        },
      },
    ]);
  });
}

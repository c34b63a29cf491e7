/** What the rules of all statements share: names, strings, numbers, the TENANT clause. */
import { EmbeddedActionsParser, type IToken } from 'chevrotain';
import type { TenantNames } from '../statements.ts';
import {
  Comma,
  Dot,
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
  VOCABULARY,
} from './lexer.ts';
import { valueError } from './syntax-error.ts';

export class BaseRules extends EmbeddedActionsParser {
  /** The whole string that `input` was made of, for errors. */
  text = '';

  constructor() {
    super([...VOCABULARY, Name, ...Object.values(K)], { maxLookahead: 3, recoveryEnabled: false });
  }

  protected fail(found: IToken, message: string, hint?: string): never {
    throw valueError(this.text, found.startOffset, message, hint);
  }

  name = this.RULE('name', (): string => nameOf(this.CONSUME(Name)));

  string = this.RULE('string', (): string => stringOf(this.CONSUME(StringLiteral)));

  /** A name, or a name written as a string: OceanBase's manuals use both. */
  nameOrString = this.RULE('nameOrString', (): string =>
    this.OR([
      { ALT: () => nameOf(this.CONSUME(Name)) },
      { ALT: () => stringOf(this.CONSUME(StringLiteral)) },
    ]),
  );

  /** A size as written: `'1G'`, `1G`, `1073741824`. */
  size = this.RULE('size', (): string =>
    this.OR([
      { ALT: () => stringOf(this.CONSUME(StringLiteral)) },
      { ALT: () => this.CONSUME(Quantity).image },
      { ALT: () => this.CONSUME(NumberLiteral).image },
    ]),
  );

  number = this.RULE('number', (): number => Number(this.CONSUME(NumberLiteral).image));

  count = this.RULE('count', (): number => {
    const found = this.CONSUME(NumberLiteral);
    return this.ACTION(() => {
      const value = Number(found.image);
      if (!Number.isSafeInteger(value) || value > 0x7fff_ffff)
        this.fail(found, `not a count: ${found.image}`);
      return value;
    });
  });

  /** An id: 0 to 2^63 - 1. */
  id = this.RULE('id', (): bigint => {
    const found = this.CONSUME(NumberLiteral);
    return this.ACTION(() => {
      if (!/^\d{1,19}$/.test(found.image) || BigInt(found.image) > 0x7fff_ffff_ffff_ffffn)
        this.fail(found, `not a whole number in range: ${found.image}`);
      return BigInt(found.image);
    });
  });

  /** `TENANT [=] ALL | t1, t2`; nothing: all. */
  tenants = this.RULE('tenants', (): TenantNames => {
    let names: TenantNames = 'all';
    this.OPTION(() => {
      this.CONSUME(K.TENANT);
      this.OPTION2(() => this.CONSUME(Equals));
      names = this.SUBRULE(this.tenantList);
    });
    return names;
  });

  tenantList = this.RULE(
    'tenantList',
    (): TenantNames =>
      this.OR([
        { ALT: (): TenantNames => (this.CONSUME(K.ALL), 'all') },
        {
          ALT: (): TenantNames => {
            const names: string[] = [];
            this.AT_LEAST_ONE_SEP({ SEP: Comma, DEF: () => names.push(this.SUBRULE(this.nameOrString)) });
            return [...new Set(names)];
          },
        },
      ]),
  );

  /** `TENANT [=] t`; nothing: undefined. */
  oneTenant = this.RULE('oneTenant', (): string | undefined => {
    let tenant: string | undefined;
    this.OPTION(() => {
      this.CONSUME(K.TENANT);
      this.OPTION2(() => this.CONSUME(Equals));
      tenant = this.SUBRULE(this.nameOrString);
    });
    return tenant;
  });

  description = this.RULE('description', (): string | undefined => {
    let description: string | undefined;
    this.OPTION(() => {
      this.CONSUME(K.DESCRIPTION);
      this.OPTION2(() => this.CONSUME(Equals));
      description = this.SUBRULE(this.string);
    });
    return description;
  });

  wait = this.RULE('wait', (): boolean => this.OPTION(() => this.CONSUME(K.WAIT)) !== undefined);

  preview = this.RULE('preview', (): boolean => this.OPTION(() => this.CONSUME(K.PREVIEW)) !== undefined);

  copy = this.RULE('copy', (): number | undefined => {
    let copy: number | undefined;
    this.OPTION(() => {
      this.CONSUME(K.COPY);
      copy = this.SUBRULE(this.count);
    });
    return copy;
  });

  strings = this.RULE('strings', (): readonly string[] => {
    const strings: string[] = [];
    this.AT_LEAST_ONE_SEP({ SEP: Comma, DEF: () => strings.push(this.SUBRULE(this.string)) });
    return strings;
  });

  /** Whatever is left of a statement that is known by its name only. */
  remaining = this.RULE('remaining', (): void => {
    this.MANY(() =>
      this.OR([
        { ALT: () => this.CONSUME(Name) },
        { ALT: () => this.CONSUME(K.TENANT) },
        { ALT: () => this.CONSUME(K.ALL) },
        { ALT: () => this.CONSUME(K.DATABASE) },
        { ALT: () => this.CONSUME(StringLiteral) },
        { ALT: () => this.CONSUME(NumberLiteral) },
        { ALT: () => this.CONSUME(Quantity) },
        { ALT: () => this.CONSUME(Comma) },
        { ALT: () => this.CONSUME(Dot) },
        { ALT: () => this.CONSUME(Equals) },
        { ALT: () => this.CONSUME(LeftParen) },
        { ALT: () => this.CONSUME(RightParen) },
      ]),
    );
  });
}

/** The parser of admin statements: what stands behind ALTER SYSTEM, and the statements without it. */
import { EOF, type IToken } from 'chevrotain';
import type { AdminStatement, StatementOf, TenantNames } from '../statements.ts';
import { withFields } from './fields.ts';
import { Equals, K } from './lexer.ts';
import { LifeRules } from './life-rules.ts';
import { syntaxError } from './syntax-error.ts';

/** Finding all that may follow costs time with the length of what was read; beyond this only the place is told. */
const MAX_TOKENS_FOR_EXPECTED = 64;

class AdminParser extends LifeRules {
  statement = this.RULE(
    'statement',
    (): AdminStatement =>
      this.OR([
        { ALT: () => (this.CONSUME(K.ALTER), this.CONSUME(K.SYSTEM), this.SUBRULE(this.alterSystem)) },
        { ALT: () => (this.CONSUME(K.SHOW), this.SUBRULE(this.show)) },
        { ALT: () => (this.CONSUME(K.CREATE), this.CONSUME(K.RESOURCE), this.SUBRULE(this.createResource)) },
        { ALT: () => (this.CONSUME(K.DROP), this.CONSUME2(K.RESOURCE), this.SUBRULE(this.dropResource)) },
        { ALT: () => (this.CONSUME(K.SET), this.SUBRULE(this.setSession)) },
      ]),
  );

  alterSystem = this.RULE(
    'alterSystem',
    (): AdminStatement =>
      this.OR([
        { ALT: () => (this.CONSUME(K.SET), this.SUBRULE(this.setParameter)) },
        { ALT: () => this.SUBRULE(this.archiveLog) },
        { ALT: () => (this.CONSUME(K.BACKUP), this.SUBRULE(this.backup)) },
        { ALT: () => this.SUBRULE(this.check) },
        { ALT: () => (this.CONSUME(K.CANCEL), this.SUBRULE(this.cancel)) },
        { ALT: () => (this.CONSUME(K.RESTORE), this.SUBRULE(this.restore)) },
        { ALT: () => (this.CONSUME(K.CREATE), this.SUBRULE(this.createRestorePoint)) },
        { ALT: () => (this.CONSUME(K.ADD), this.SUBRULE(this.add)) },
        { ALT: () => this.SUBRULE(this.clearSource) },
        { ALT: () => (this.CONSUME(K.DROP), this.SUBRULE(this.drop)) },
        { ALT: () => (this.CONSUME(K.DELETE), this.SUBRULE(this.deleteBackup)) },
        { ALT: () => (this.CONSUME(K.CHANGE), this.SUBRULE(this.changeKeep)) },
        { ALT: () => (this.CONSUME(K.VALIDATE), this.SUBRULE(this.validate)) },
        { ALT: () => (this.CONSUME(K.PAUSE), this.SUBRULE(this.changeSchedule, { ARGS: ['pause'] })) },
        { ALT: () => this.SUBRULE(this.archivelogCopy) },
        { ALT: () => this.SUBRULE(this.rotateKey) },
        { ALT: () => this.SUBRULE(this.importBackup) },
        { ALT: () => this.SUBRULE(this.knownByName) },
        { ALT: () => (this.CONSUME(K.RESUME), this.SUBRULE2(this.changeSchedule, { ARGS: ['resume'] })) },
      ]),
  );

  archiveLog = this.RULE('archiveLog', (): AdminStatement => {
    const kind = this.OR([
      { ALT: () => (this.CONSUME(K.ARCHIVELOG), 'archiveLog' as const) },
      { ALT: () => (this.CONSUME(K.NOARCHIVELOG), 'noArchiveLog' as const) },
    ]);
    const tenants = this.SUBRULE(this.tenants);
    const description = this.SUBRULE(this.description);
    return withFields<StatementOf<'archiveLog' | 'noArchiveLog'>>({ kind, tenants, description });
  });

  backup = this.RULE(
    'backup',
    (): AdminStatement =>
      this.OR([
        { ALT: () => this.SUBRULE(this.backupBackup) },
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.KEY);
            this.SUBRULE(this.remaining);
            return { kind: 'knownByName', name: 'BACKUP KEY' };
          },
        },
        { ALT: () => this.SUBRULE(this.backupTenants) },
      ]),
  );

  backupTenants = this.RULE('backupTenants', (): AdminStatement => {
    let mode: StatementOf<'backup'>['mode'] = 'full';
    this.OPTION(() => {
      mode = this.OR([
        { ALT: () => (this.CONSUME(K.FULL), 'full' as const) },
        { ALT: () => (this.CONSUME(K.INCREMENTAL), 'incremental' as const) },
        { ALT: () => (this.CONSUME(K.SYNTHETIC), 'synthetic' as const) },
      ]);
    });
    const tenants = this.SUBRULE(this.whatToBackUp);
    let to: string | undefined;
    this.OPTION2(() => {
      this.CONSUME(K.TO);
      to = this.SUBRULE(this.string);
    });
    const plus = this.OPTION3(() => (this.CONSUME(K.PLUS), this.CONSUME(K.ARCHIVELOG)));
    const plusArchivelog = plus !== undefined;
    const description = this.SUBRULE(this.description);
    const wait = this.SUBRULE(this.wait);
    return withFields<StatementOf<'backup'>>({
      kind: 'backup',
      mode,
      tenants,
      to,
      plusArchivelog,
      description,
      wait,
    });
  });

  /** `DATABASE`, `TENANT [=] …`, and 4.x's `DATABASE TENANT = …`. */
  whatToBackUp = this.RULE('whatToBackUp', (): TenantNames => {
    return this.OR([
      { ALT: () => (this.CONSUME(K.DATABASE), this.SUBRULE(this.tenants)) },
      { ALT: () => this.SUBRULE(this.namedTenants) },
    ]);
  });

  namedTenants = this.RULE('namedTenants', (): TenantNames => {
    this.CONSUME(K.TENANT);
    this.OPTION(() => this.CONSUME(Equals));
    return this.SUBRULE(this.tenantList);
  });

  check = this.RULE('check', (): AdminStatement => {
    this.CONSUME(K.CHECK);
    const tenant = this.SUBRULE(this.oneTenant);
    const wait = this.SUBRULE(this.wait);
    return withFields<StatementOf<'check'>>({ kind: 'check', tenant, wait });
  });

  cancel = this.RULE(
    'cancel',
    (): AdminStatement =>
      this.OR([
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.ALL);
            this.CONSUME(K.BACKUP);
            this.CONSUME(K.FORCE);
            return { kind: 'cancelBackup', tenants: 'all', force: true };
          },
        },
        { ALT: () => (this.CONSUME2(K.BACKUP), this.SUBRULE(this.cancelBackup)) },
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.DELETE);
            this.CONSUME3(K.BACKUP);
            return { kind: 'cancelDeleteBackup', tenants: this.SUBRULE(this.tenants) };
          },
        },
        {
          ALT: (): AdminStatement => {
            this.CONSUME(K.RESTORE);
            this.OPTION(() => this.CONSUME(K.TENANT));
            return { kind: 'cancelRestore', tenant: this.SUBRULE(this.nameOrString) };
          },
        },
        {
          ALT: (): AdminStatement => (
            this.CONSUME(K.VALIDATE), { kind: 'cancelValidate', job: this.SUBRULE(this.id) }
          ),
        },
      ]),
  );

  cancelBackup = this.RULE(
    'cancelBackup',
    (): AdminStatement =>
      this.OR([
        {
          ALT: (): AdminStatement => (
            this.CONSUME(K.BACKUPSET), { kind: 'cancelBackupBackup', what: 'backupSet' }
          ),
        },
        {
          ALT: (): AdminStatement => (
            this.CONSUME(K.BACKUPPIECE), { kind: 'cancelBackupBackup', what: 'backupPiece' }
          ),
        },
        {
          ALT: (): AdminStatement => ({
            kind: 'cancelBackup',
            tenants: this.SUBRULE(this.tenants),
            force: false,
          }),
        },
      ]),
  );

  createRestorePoint = this.RULE('createRestorePoint', (): AdminStatement => {
    this.CONSUME(K.RESTORE);
    this.CONSUME(K.POINT);
    const name = this.SUBRULE(this.nameOrString);
    return { kind: 'createRestorePoint', name, tenants: this.SUBRULE(this.tenants) };
  });

  clearSource = this.RULE('clearSource', (): AdminStatement => {
    this.CONSUME(K.CLEAR);
    this.CONSUME(K.RESTORE);
    this.CONSUME(K.SOURCE);
    return { kind: 'clearRestoreSource' };
  });

  archivelogCopy = this.RULE('archivelogCopy', (): AdminStatement => {
    const action = this.OR([
      { ALT: () => (this.CONSUME(K.START), 'start' as const) },
      { ALT: () => (this.CONSUME(K.STOP), 'stop' as const) },
    ]);
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.ARCHIVELOG);
    return { kind: 'backupArchivelogCopy', action };
  });

  rotateKey = this.RULE('rotateKey', (): AdminStatement => {
    this.CONSUME(K.ROTATE);
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.KEY);
    return { kind: 'rotateBackupKey', tenants: this.SUBRULE(this.tenants) };
  });

  importBackup = this.RULE('importBackup', (): AdminStatement => {
    this.CONSUME(K.IMPORT);
    this.CONSUME(K.BACKUP);
    this.CONSUME(K.FROM);
    return { kind: 'importBackup', from: this.SUBRULE(this.string) };
  });

  /** OceanBase's statements that have no meaning here, or not yet a form. */
  knownByName = this.RULE('knownByName', (): AdminStatement => {
    const verb = this.OR([
      { ALT: () => (this.CONSUME(K.RECOVER), 'RECOVER') },
      { ALT: () => (this.CONSUME(K.ACTIVATE), 'ACTIVATE') },
      { ALT: () => (this.CONSUME(K.SUSPEND), 'SUSPEND') },
    ]);
    this.SUBRULE(this.remaining);
    return { kind: 'knownByName', name: verb };
  });

  constructor() {
    super();
    this.performSelfAnalysis();
  }
}

const parser = new AdminParser();

/**
 * The statement that all of `tokens` make. `text` is the whole string that they come from; an error's position counts
 * in it. `end` is the offset where the statement ends. Throws SYNTAX_ERROR.
 */
export function parseAdminStatement(text: string, tokens: readonly IToken[], end: number): AdminStatement {
  parser.text = text;
  parser.input = [...tokens];
  const statement = parser.statement();
  const failure = parser.errors[0];
  if (failure === undefined) return statement;
  const at = tokens.indexOf(failure.token);
  const found = at < 0 || failure.token.tokenType === EOF ? undefined : failure.token;
  throw syntaxError({
    text,
    offset: found?.startOffset ?? end,
    found: found?.image,
    expected: expectedAfter(at < 0 ? tokens : tokens.slice(0, at)),
  });
}

function expectedAfter(tokens: readonly IToken[]): readonly string[] {
  if (tokens.length > MAX_TOKENS_FOR_EXPECTED) return [];
  const paths = parser.computeContentAssist('statement', [...tokens]);
  return paths.map(({ nextTokenType }) => nextTokenType.LABEL ?? nextTokenType.name);
}

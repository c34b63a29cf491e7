/** Which command runs a statement. Statements of later versions are refused by name. */
import { HoldfastError } from '../../foundation/errors.ts';
import type { CoordinatorContext } from '../context.ts';
import type { SqlSession } from '../sql/session.ts';
import { type AdminStatement, STATEMENT_NAMES } from '../sql/statements.ts';
import { archiveLog, noArchiveLog } from './archive.ts';
import { backup, cancelBackup } from './backup.ts';
import { check } from './check.ts';
import type { Events } from './command.ts';
import { setParameter, showParameters } from './parameters.ts';
import { createPool, createUnit, dropPool, dropTenant, dropUnit } from './resources.ts';
import { cancelRestore, restore, showRestorePreview } from './restore.ts';
import { showRestoreWindows } from './restore-windows.ts';
import { rotateBackupKey } from './rotate-key.ts';
import { cancelValidate, validate } from './validate.ts';

/** Runs one admin statement. Throws HoldfastError; stops waiting (the job goes on) when `signal` aborts. */
export async function* executeCommand(
  context: CoordinatorContext,
  statement: AdminStatement,
  session: SqlSession,
  signal: AbortSignal,
): Events {
  switch (statement.kind) {
    case 'setParameter':
      await setParameter(context, statement, signal);
      return;
    case 'showParameters':
      yield* showParameters(context, statement);
      return;
    case 'archiveLog':
      yield* archiveLog(context, statement, signal);
      return;
    case 'noArchiveLog':
      yield* noArchiveLog(context, statement);
      return;
    case 'backup':
      yield* backup(context, statement, session, signal);
      return;
    case 'cancelBackup':
      yield* cancelBackup(context, statement);
      return;
    case 'restore':
      yield* restore(context, statement, session, signal);
      return;
    case 'cancelRestore':
      yield* cancelRestore(context, statement);
      return;
    case 'showRestoreWindows':
      yield* showRestoreWindows(context, statement, signal);
      return;
    case 'showRestorePreview':
      yield* showRestorePreview(session);
      return;
    case 'check':
      yield* check(context, statement, signal);
      return;
    case 'createResourceUnit':
      await createUnit(context, statement);
      return;
    case 'createResourcePool':
      yield* createPool(context, statement);
      return;
    case 'dropResourceUnit':
      await dropUnit(context, statement);
      return;
    case 'dropResourcePool':
      await dropPool(context, statement);
      return;
    case 'dropTenant':
      yield* dropTenant(context, statement);
      return;
    case 'validate':
      yield* validate(context, statement, session, signal);
      return;
    case 'rotateBackupKey':
      yield* rotateBackupKey(context, statement, session, signal);
      return;
    case 'cancelValidate':
      yield* cancelValidate(context, statement);
      return;
    default:
      throw new HoldfastError('NOT_SUPPORTED', `${nameOf(statement)} is not supported yet`);
  }
}

function nameOf(statement: AdminStatement): string {
  return statement.kind === 'knownByName'
    ? `${STATEMENT_NAMES.knownByName} ${statement.name}`
    : STATEMENT_NAMES[statement.kind];
}

import { normalize } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { checkFilePath, checkRelativePath } from '../../../../agent/restore/safe-path.ts';

test.each(['', '/etc/passwd', '../x', 'base/../../x', 'base/./1', 'base//1', 'base/', 'a\0b', '..', '.'])(
  'a path like %j is refused',
  (path) => {
    expect(() => checkRelativePath(path)).toThrow(/leads out/);
  },
);

test('a path that passes stays inside, whatever it is', () => {
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.string(), fc.constantFrom('..', '.', '')), { minLength: 1 }),
      (parts) => {
        const path = parts.join('/');
        try {
          checkRelativePath(path);
        } catch {
          return true;
        }
        return (
          !normalize(`/root/${path}`).split('/').includes('..') && normalize(`/r/${path}`).startsWith('/r/')
        );
      },
    ),
  );
});

test('files that only a server or a restore makes are refused', () => {
  for (const path of ['postmaster.pid', 'recovery.signal', 'standby.signal', 'tablespace_map'])
    expect(() => checkFilePath(path)).toThrow(/no backup holds/);
  checkFilePath('base/1/1259');
  checkFilePath('pg_tblspc/16384/PG_15_202209061/5/16385');
});

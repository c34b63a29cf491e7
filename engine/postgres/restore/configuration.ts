/**
 * The configuration files of a restored copy. Those in the data directory stay as they are, unless a line leads to the
 * source's files. Those that stood elsewhere (Debian: /etc/postgresql/…) are laid into the data directory under the
 * names that a server looks for, with what they include put in place of the include.
 */
import { chown, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, resolve } from 'node:path';
import type { ServerUser } from '../server-process.ts';
import { readSettings } from './config-text.ts';
import { neutraliseConfig } from './settings.ts';

/** Text of a file by its absolute path at the source. */
export type ExternalFiles = ReadonlyMap<string, string>;

const MAX_INCLUDE_DEPTH = 10;
const CLOSED_HBA = `# Restored by Holdfast: the source's pg_hba.conf was not part of the backup.
local all all peer
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
`;

/**
 * Makes postgresql.conf, pg_hba.conf and pg_ident.conf of the data directory fit for the copy. Returns the settings of
 * the configuration files, postgresql.auto.conf's last.
 */
export async function layConfiguration(
  dataDirectory: string,
  external: ExternalFiles,
  user: ServerUser | undefined,
): Promise<ReadonlyMap<string, string>> {
  const write = async (name: string, text: string) => {
    const path = join(dataDirectory, name);
    await writeFile(path, text, { mode: 0o600 });
    if (user !== undefined) await chown(path, user.uid, user.gid);
  };
  const inside = await readIfThere(join(dataDirectory, 'postgresql.conf'));
  const main = inside ?? flattened(findExternal(external, 'postgresql.conf'), external);
  const neutral = neutraliseConfig(main, inside !== undefined);
  if (neutral !== undefined || inside === undefined) await write('postgresql.conf', neutral ?? main);
  const settings = readSettings(main);
  for (const [name, setting, fallback] of [
    ['pg_hba.conf', 'hba_file', CLOSED_HBA],
    ['pg_ident.conf', 'ident_file', ''],
  ] as const) {
    if ((await readIfThere(join(dataDirectory, name))) !== undefined) continue;
    const path = settings.get(setting);
    const text = (path === undefined ? undefined : external.get(path)) ?? findExternal(external, name)?.text;
    await write(name, text ?? fallback);
  }
  const auto = (await readIfThere(join(dataDirectory, 'postgresql.auto.conf'))) ?? '';
  return new Map([...settings, ...readSettings(auto)]);
}

/** postgresql.conf's text with the files that it includes in their places, as far as they were backed up. */
function flattened(
  file: { readonly path: string; readonly text: string } | undefined,
  external: ExternalFiles,
  depth = 0,
): string {
  if (file === undefined) return '# Restored by Holdfast: the backup holds no postgresql.conf.\n';
  if (depth > MAX_INCLUDE_DEPTH) return '';
  return file.text
    .split('\n')
    .map((line) => {
      const match = /^\s*(include|include_if_exists|include_dir)\s*=?\s*'?([^'#]+?)'?\s*(?:#.*)?$/i.exec(
        line,
      );
      if (match?.[1] === undefined || match[2] === undefined) return line;
      const path = isAbsolute(match[2]) ? match[2] : resolve(dirname(file.path), match[2]);
      const included = includedFiles(match[1].toLowerCase(), path, external);
      return [`#${line}`, ...included.map((one) => flattened(one, external, depth + 1))].join('\n');
    })
    .join('\n');
}

function includedFiles(
  directive: string,
  path: string,
  external: ExternalFiles,
): readonly { readonly path: string; readonly text: string }[] {
  if (directive !== 'include_dir') {
    const text = external.get(path);
    return text === undefined ? [] : [{ path, text }];
  }
  return [...external]
    .filter(([name]) => dirname(name) === path && name.endsWith('.conf') && !basename(name).startsWith('.'))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, text]) => ({ path: name, text }));
}

function findExternal(
  external: ExternalFiles,
  name: string,
): { readonly path: string; readonly text: string } | undefined {
  const found = [...external].find(([path]) => basename(path) === name);
  return found === undefined ? undefined : { path: found[0], text: found[1] };
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined; // node:fs throws errno errors
    throw error;
  }
}

/**
 * The text of postgresql.conf and postgresql.auto.conf (guc-file.l): lines `name = value`, the equals sign optional, a
 * value bare or in single quotes, `#` begins a comment. The last line of a name wins. Lines that are not understood are
 * left as they are: the server judges them.
 */

/** Comments out every line that sets a name for which `refuse` is true. Returns undefined when there is none. */
export function commentOut(
  text: string,
  refuse: (name: string, value: string) => boolean,
): string | undefined {
  let changed = false;
  const lines = text.split('\n').map((line) => {
    const setting = parseLine(line);
    if (setting === undefined || !refuse(setting.name, setting.value)) return line;
    changed = true;
    return `#${line}`;
  });
  return changed ? lines.join('\n') : undefined;
}

/** Removes every line that sets a name for which `refuse` is true. */
export function removeSettings(text: string, refuse: (name: string) => boolean): string {
  return text
    .split('\n')
    .filter((line) => {
      const setting = parseLine(line);
      return setting === undefined || !refuse(setting.name);
    })
    .join('\n');
}

/** The settings of a file, later lines winning; names in lower case. `include` directives appear under their own names. */
export function readSettings(text: string): ReadonlyMap<string, string> {
  const settings = new Map<string, string>();
  for (const line of text.split('\n')) {
    const setting = parseLine(line);
    if (setting !== undefined) settings.set(setting.name, setting.value);
  }
  return settings;
}

/** `name = 'value'` lines. */
export function formatSettings(settings: Readonly<Record<string, string>>): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name} = '${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'\n`)
    .join('');
}

/** The members of a comma-separated list setting such as shared_preload_libraries, quotes removed. */
export function parseList(value: string): readonly string[] {
  const members = value.match(/"(?:[^"]|"")*"|[^,\s"][^,]*/g) ?? [];
  return members
    .map((member) => member.trim())
    .map((member) => (member.startsWith('"') ? member.slice(1, -1).replaceAll('""', '"') : member))
    .filter((member) => member !== '');
}

function parseLine(line: string): { readonly name: string; readonly value: string } | undefined {
  const match = /^\s*([A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)*)\s*=?\s*('(?:[^'\\]|''|\\.)*'|[^\s#']*)/.exec(
    line,
  );
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  const raw = match[2];
  const value = raw.startsWith("'")
    ? raw.slice(1, -1).replaceAll(/''|\\(.)/g, (whole, escaped: string) => (whole === "''" ? "'" : escaped))
    : raw;
  return { name: match[1].toLowerCase(), value };
}

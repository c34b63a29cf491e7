/**
 * Configuration files: YAML checked against a zod schema. An error names file, line, column and key, as an editor
 * understands them, and a mistyped key gets the nearest known one:
 *
 *   INVALID_CONFIG: agent.yaml:7:5: instances[0].prot: unknown key
 *   HINT: Did you mean "port"? Known here: host, port, user, …
 *
 * Use z.strictObject for every object, so that unknown keys are refused. When there is more than one problem, the first
 * (by place) is the message and all of them are the detail.
 */
import { readFile } from 'node:fs/promises';
import { isMap, isPair, isScalar, LineCounter, type Node, type ParsedNode, parseDocument } from 'yaml';
import type { z } from 'zod';
import { HoldfastError } from './errors.ts';
import { didYouMean } from './suggest.ts';

/** Reads and checks a configuration file. Throws INVALID_CONFIG, also when the file cannot be read. */
export async function loadYamlConfig<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
): Promise<z.output<Schema>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new HoldfastError('INVALID_CONFIG', `cannot read the configuration file ${path}`, {
      cause: error,
      detail: error instanceof Error ? error.message : String(error),
    });
  }
  return parseYamlConfig(text, path, schema);
}

/** The same for a text already read; `path` only names it in errors. */
export function parseYamlConfig<Schema extends z.ZodType>(
  text: string,
  path: string,
  schema: Schema,
): z.output<Schema> {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const syntaxError = document.errors[0];
  if (syntaxError !== undefined) {
    throw new HoldfastError(
      'INVALID_CONFIG',
      `${place(path, lines, syntaxError.pos[0])}: ${syntaxError.message}`,
    );
  }
  const result = schema.safeParse(document.contents === null ? {} : document.toJS());
  if (result.success) return result.data;
  const problems = result.error.issues
    .flatMap((issue) => problemsOf(issue, document.contents, schema))
    .toSorted((a, b) => a.offset - b.offset)
    .map((problem) => ({ ...problem, text: `${place(path, lines, problem.offset)}: ${problem.text}` }));
  const [first] = problems;
  const hint = problems.find((problem) => problem.hint !== undefined)?.hint; // a key is missing where another is mistyped
  throw new HoldfastError('INVALID_CONFIG', first?.text ?? `${path} is not valid`, {
    cause: result.error,
    ...(problems.length > 1 ? { detail: problems.map((problem) => problem.text).join('\n') } : {}),
    ...(hint === undefined ? {} : { hint }),
  });
}

type Problem = { readonly offset: number; readonly text: string; readonly hint?: string };
type Path = readonly PropertyKey[];

/** One zod issue as problems at places of the file; an issue of several unknown keys is one problem for each. */
function problemsOf(issue: z.core.$ZodIssue, contents: ParsedNode | null, schema: z.ZodType): Problem[] {
  if (issue.code === 'unrecognized_keys') {
    const known = knownKeys(schema, issue.path);
    return issue.keys.map((key) => ({
      offset: offsetOf(contents, [...issue.path, key], 'key'),
      text: `${formatPath([...issue.path, key])}: unknown key`,
      hint: `${didYouMean(key, known)} Known here: ${known.join(', ')}.`.trim(),
    }));
  }
  if (issue.code === 'invalid_union') {
    // A value that fits no alternative: the alternative with the fewest complaints is what was most likely meant.
    const nearest = issue.errors.toSorted((a, b) => a.length - b.length)[0];
    if (nearest !== undefined && nearest.length > 0)
      return nearest.flatMap((inner) =>
        problemsOf({ ...inner, path: [...issue.path, ...inner.path] }, contents, schema),
      );
  }
  const missing = issue.code === 'invalid_type' && !isThere(contents, issue.path);
  return [
    {
      offset: offsetOf(contents, issue.path, 'value'),
      text: `${formatPath(issue.path)}: ${missing ? 'missing' : lowerFirst(issue.message)}`,
    },
  ];
}

/** `instances[0].port`; the whole file has no path. */
function formatPath(path: Path): string {
  const text = path
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${String(part)}`))
    .join('')
    .replace(/^\./, '');
  return text === '' ? 'the file' : text;
}

function place(path: string, lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${path}:${line}:${col}`;
}

/** Where the node at `path` stands, or the nearest one above it that exists. */
function offsetOf(contents: ParsedNode | null, path: Path, want: 'key' | 'value'): number {
  let node: Node | null = contents;
  let offset = contents?.range[0] ?? 0;
  for (const [depth, part] of path.entries()) {
    const child = childOf(node, part);
    if (child === undefined) return offset;
    const last = depth === path.length - 1;
    const spot = last && want === 'key' ? child.key : (child.value ?? child.key);
    offset = spot?.range?.[0] ?? offset;
    node = child.value;
  }
  return offset;
}

function isThere(contents: ParsedNode | null, path: Path): boolean {
  let node: Node | null = contents;
  for (const part of path) {
    const child = childOf(node, part);
    if (child === undefined) return false;
    node = child.value;
  }
  return true;
}

type Child = { readonly key: Node | null; readonly value: Node | null };

function childOf(node: Node | null, part: PropertyKey): Child | undefined {
  if (node === null || !('items' in node) || !Array.isArray(node.items)) return undefined;
  const items: readonly unknown[] = node.items;
  if (!isMap(node)) {
    const item = typeof part === 'number' ? items[part] : undefined;
    return item === undefined ? undefined : { key: null, value: item as Node }; // a parsed sequence holds nodes
  }
  const pair = items.find(
    (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(part),
  );
  if (!isPair(pair)) return undefined;
  return { key: pair.key as Node, value: pair.value as Node | null }; // a parsed map holds nodes
}

/** The keys that the schema knows at `path`, through optional, default, array, record and pipe wrappers. */
export function knownKeys(schema: z.ZodType, path: Path = []): string[] {
  const found = schemasAt([schema], path);
  return [...new Set(found.flatMap((each) => objectsIn(each)).flatMap((each) => Object.keys(each.shape)))];
}

/** A zod schema's inside, as far as this file reads it. */
type Inside = {
  readonly type: string;
  readonly innerType?: z.ZodType;
  readonly in?: z.ZodType;
  readonly options?: readonly z.ZodType[];
  readonly element?: z.ZodType;
  readonly valueType?: z.ZodType;
};

function inside(schema: z.ZodType): Inside {
  return schema._zod.def;
}

/** The schemas behind wrappers: what an input value is really checked against. */
function unwrap(schema: z.ZodType): z.ZodType[] {
  const def = inside(schema);
  if (def.innerType !== undefined) return unwrap(def.innerType);
  if (def.type === 'pipe' && def.in !== undefined) return unwrap(def.in);
  if (def.options !== undefined) return def.options.flatMap(unwrap);
  return [schema];
}

function objectsIn(schema: z.ZodType): z.ZodObject[] {
  return unwrap(schema).filter((each) => inside(each).type === 'object') as z.ZodObject[]; // told apart by type
}

function schemasAt(schemas: readonly z.ZodType[], path: Path): z.ZodType[] {
  const [part, ...rest] = path;
  if (part === undefined) return [...schemas];
  const next = schemas.flatMap(unwrap).flatMap((each) => {
    const { type, element, valueType } = inside(each);
    if (type === 'object') return (each as z.ZodObject).shape[String(part)] ?? [];
    if (type === 'array') return element ?? [];
    return type === 'record' ? (valueType ?? []) : [];
  });
  return schemasAt(next as z.ZodType[], rest); // a zod 4 shape holds schemas
}

function lowerFirst(text: string): string {
  return text.slice(0, 1).toLowerCase() + text.slice(1);
}

/**
 * The directory through which a recovering server gets its log, and the restore_command that takes from it.
 *
 *   spool/fetch.sh          what the server runs: fetch.sh <name> <path>
 *   spool/ready/<name>      a whole file; the command moves it away
 *   spool/wanted/<name>     the command waits for this one
 *   spool/missing/<name>    the answer: there is no such file; the command removes it
 *   spool/heartbeat         a number that grows while the feeder lives
 *   spool/closed            the feeder has ended
 *
 * The command ends with 0 (moved), 1 (no such file: recovery takes it for the log's end), or 200 when the feeder is
 * gone: above 125 the server stops instead of ending recovery early, so that a copy whose feeder died is never
 * promoted on half of its log.
 */
import { chmod, chown, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ServerUser } from '../../engine/postgres/server-process.ts';
import { NewFile } from './new-file.ts';

export const HEARTBEAT_MS = 1000;
/** Times 50 ms: how long the command believes in a feeder whose heartbeat stands still. */
const MAX_QUIET_POLLS = 600;

export type Spool = {
  readonly directory: string;
  readonly script: string;
  readonly readyDirectory: string;
  readonly wantedDirectory: string;
  readonly user: ServerUser | undefined;
};

/** Makes an empty spool that `user` may use; one that an earlier restore left is removed. */
export async function createSpool(directory: string, user: ServerUser | undefined): Promise<Spool> {
  await rm(directory, { recursive: true, force: true });
  const spool: Spool = {
    directory,
    script: join(directory, 'fetch.sh'),
    readyDirectory: join(directory, 'ready'),
    wantedDirectory: join(directory, 'wanted'),
    user,
  };
  for (const path of [directory, spool.readyDirectory, spool.wantedDirectory, join(directory, 'missing')]) {
    await mkdir(path, { mode: 0o700 });
    await give(path, user);
  }
  await writeFile(spool.script, fetchScript(directory));
  await chmod(spool.script, 0o644);
  await beat(spool, 0);
  return spool;
}

/** The names of the files that the server waits for. */
export async function wantedNames(spool: Spool): Promise<readonly string[]> {
  return await readdir(spool.wantedDirectory);
}

export async function readyNames(spool: Spool): Promise<ReadonlySet<string>> {
  return new Set(await readdir(spool.readyDirectory));
}

/** Puts a whole file into the spool in one act. Durability is the server's affair: it syncs what it keeps. */
export async function offerFile(spool: Spool, name: string, data: Uint8Array): Promise<void> {
  await using offer = await beginOffer(spool, name);
  await offer.write(data, 0);
  await offer.finish(data.length);
}

/** A file on its way into the spool, written piece by piece. */
export async function beginOffer(spool: Spool, name: string): Promise<NewFile> {
  return await NewFile.create(
    join(spool.directory, `${name}.part`),
    join(spool.readyDirectory, name),
    spool.user,
  );
}

/** Answers that there is no such file. */
export async function answerMissing(spool: Spool, name: string): Promise<void> {
  await writeFile(join(spool.directory, 'missing', name), '');
}

export async function beat(spool: Spool, count: number): Promise<void> {
  const temporary = join(spool.directory, 'heartbeat.part');
  await writeFile(temporary, `${count}\n`, { mode: 0o644 });
  await chmod(temporary, 0o644);
  await rename(temporary, join(spool.directory, 'heartbeat'));
}

/** Tells waiting commands that nothing more will come. */
export async function closeSpool(spool: Spool): Promise<void> {
  await writeFile(join(spool.directory, 'closed'), '');
}

async function give(path: string, user: ServerUser | undefined): Promise<void> {
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

/** POSIX shell, except that a `sleep` without fractions waits a second instead. */
export function fetchScript(directory: string): string {
  return `#!/bin/sh
# Holdfast: gives a recovering server its log. Usage: fetch.sh <name> <path>
spool='${directory.replaceAll("'", "'\\''")}'
name=$1
path=$2
take() { mv -f "$spool/ready/$name" "$path" && exit 0; exit 200; }
[ -e "$spool/ready/$name" ] && take
true > "$spool/wanted/$name" || exit 200
last=
quiet=0
while :; do
  if [ -e "$spool/ready/$name" ]; then
    rm -f "$spool/wanted/$name"
    take
  fi
  if [ -e "$spool/missing/$name" ]; then
    rm -f "$spool/wanted/$name" "$spool/missing/$name"
    exit 1
  fi
  [ -e "$spool/closed" ] && exit 200
  [ -e "$spool/heartbeat" ] || exit 200
  read -r beat < "$spool/heartbeat" || exit 200
  if [ "$beat" = "$last" ]; then quiet=$((quiet + 1)); else last=$beat; quiet=0; fi
  [ "$quiet" -ge ${MAX_QUIET_POLLS} ] && exit 200
  sleep 0.05 2>/dev/null || sleep 1
done
`;
}

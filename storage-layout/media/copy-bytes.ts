/** Copies of files: by the file system, or through this process for a medium whose store cannot make one. */
import { constants, copyFile } from 'node:fs/promises';
import type { Medium } from './medium.ts';

const PART_BYTES = 4 * 2 ** 20;

/** As `Medium.copyFile`. */
export async function copyBytes(
  medium: Pick<Medium, 'readRange' | 'createFile'>,
  from: string,
  to: string,
  onPart: (bytes: number) => Promise<void>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const buffer = Buffer.allocUnsafeSlow(PART_BYTES);
  let part = await medium.readRange(from, 0, PART_BYTES, buffer, signal);
  await using file = await medium.createFile(to, signal);
  for (let position = 0; part.length > 0; ) {
    await file.write([part]);
    await onPart(part.length);
    position += part.length;
    part = await medium.readRange(from, position, position + PART_BYTES, buffer, signal);
  }
  await file.close();
}

/** True when the file system shares the bytes between both paths now; false when it does not, or there is another reason. */
export async function cloneFile(source: string, target: string): Promise<boolean> {
  try {
    await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE);
    return true;
  } catch {
    return false; // whoever copies the bytes finds the reason again, if it is one
  }
}

import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { maskUri, openMedium, probeMedium } from '../../../storage-layout/media/open.ts';
import { describeMediumContract } from './media-contract.ts';
import { openTestMedium } from './support.ts';

describeMediumContract('a directory', async () => {
  const opened = await openTestMedium();
  return {
    medium: opened.medium,
    remove: async () => await opened[Symbol.asyncDispose](),
  };
});

it('a directory that is not there is refused, and is not made', async () => {
  await using opened = await openTestMedium();
  const missing = join(opened.directory, 'unmounted');
  await expect(openMedium(`file://${missing}`)).rejects.toMatchObject({ code: 'INVALID_BACKUP_DEST' });
  await expect(stat(missing)).rejects.toThrow(/ENOENT/);
});

it('a destination that vanishes is not made again by a write', async () => {
  await using opened = await openTestMedium();
  const path = join(opened.directory, 'mounted');
  await mkdir(path);
  const medium = await openMedium(`file://${path}`);
  await rm(path, { recursive: true });
  await expect(medium.createExclusive('a/b', Buffer.from('x'))).rejects.toMatchObject({
    code: 'DESTINATION_IO',
    message: `the destination file://${path} is not there`,
  });
  expect(await readdir(opened.directory)).toEqual([]);
  await expect(probeMedium(medium, 'x')).rejects.toMatchObject({ code: 'INVALID_BACKUP_DEST' });
});

it('a destination that vanishes is not taken for an empty one', async () => {
  await using opened = await openTestMedium();
  const path = join(opened.directory, 'mounted');
  await mkdir(path);
  const medium = await openMedium(`file://${path}`);
  expect(await medium.listNames('a')).toEqual([]);
  await rm(path, { recursive: true });
  const away = { code: 'DESTINATION_IO' };
  await expect(medium.listNames('a')).rejects.toMatchObject(away);
  await expect(Array.fromAsync(medium.list('a'))).rejects.toMatchObject(away);
  await expect(medium.stat('a')).rejects.toMatchObject(away);
  await expect(medium.read('a')).rejects.toMatchObject(away);
  await expect(medium.deleteMany(['a'])).rejects.toMatchObject(away);
});

it('names that begin with a dot are not listed, and no temporary file is left', async () => {
  await using opened = await openTestMedium();
  const { medium, directory } = opened;
  await medium.createExclusive('a/file', Buffer.from('x'));
  await expect(medium.createExclusive('a/file', Buffer.from('y'))).rejects.toThrow(/exists/);
  await medium.replace('a/file', Buffer.from('z'));
  expect(await readdir(join(directory, 'a'))).toEqual(['file']);
  await writeFile(join(directory, 'a', '.nfs0001'), 'x');
  expect(await medium.listNames('a')).toEqual(['file']);
});

it('a path with spaces and percent signs is opened as a URI says', async () => {
  await using opened = await openTestMedium();
  await mkdir(join(opened.directory, 'with space'));
  const medium = await openMedium(`file://${opened.directory}/with%20space/`);
  await medium.createExclusive('f', Buffer.from('x'));
  expect(await readdir(join(opened.directory, 'with space'))).toEqual(['f']);
});

it('schemes without a medium are refused by name', async () => {
  await expect(openMedium('s3://bucket/prefix?access_key=hidden')).rejects.toMatchObject({
    code: 'NOT_SUPPORTED',
    message: expect.stringContaining('s3://') as string,
  });
  await expect(openMedium('s3://bucket?access_key=hidden')).rejects.not.toThrow(/hidden/);
  await expect(openMedium('/just/a/path')).rejects.toMatchObject({ code: 'INVALID_BACKUP_DEST' });
  await expect(openMedium('file://host/path')).rejects.toMatchObject({ code: 'INVALID_BACKUP_DEST' });
});

it('secrets in a URI are masked, places are not', () => {
  expect(maskUri('s3://bucket/p?host=h&access_id=i&access_key=k&region=r')).toBe(
    's3://bucket/p?host=h&access_id=***&access_key=***&region=r',
  );
  expect(maskUri('oss://id:key@bucket/p')).toBe('oss://***@bucket/p');
  expect(maskUri('file:///a/b@c')).toBe('file:///a/b@c');
});

/** What every medium must do. Each medium's test calls this with a way to open an empty one. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Medium } from '../../../storage-layout/media/medium.ts';
import { probeMedium } from '../../../storage-layout/media/open.ts';

export type OpenedMedium = { readonly medium: Medium; readonly remove: () => Promise<void> };

export function describeMediumContract(name: string, openEmpty: () => Promise<OpenedMedium>): void {
  describe(`${name} keeps the contract of a medium:`, () => {
    let medium: Medium;
    let remove: () => Promise<void>;
    beforeEach(async () => {
      ({ medium, remove } = await openEmpty());
    });
    afterEach(async () => {
      await medium[Symbol.asyncDispose]();
      await remove();
    });

    it('what was created exclusively is read back, whole and in ranges', async () => {
      await medium.createExclusive('a/b/c', Buffer.from('0123456789'));
      expect((await medium.read('a/b/c')).toString()).toBe('0123456789');
      expect((await medium.readRange('a/b/c', 2, 5)).toString()).toBe('234');
      expect((await medium.readRange('a/b/c', 8, 50)).toString()).toBe('89');
      expect((await medium.readRange('a/b/c', 10, 20)).length).toBe(0);
      expect((await medium.readRange('a/b/c', 20, 30)).length).toBe(0);
    });

    it('a range is read into a given buffer, and its filled prefix is returned', async () => {
      await medium.createExclusive('f', Buffer.from('0123456789'));
      const into = Buffer.alloc(16, 0x2e);
      const found = await medium.readRange('f', 6, 12, into);
      expect(found.toString()).toBe('6789');
      expect(into.subarray(0, 4).toString()).toBe('6789');
      expect(found.buffer).toBe(into.buffer);
    });

    it('an empty file is a file', async () => {
      await medium.createExclusive('empty', Buffer.alloc(0));
      expect((await medium.read('empty')).length).toBe(0);
      expect((await medium.stat('empty'))?.sizeBytes).toBe(0);
    });

    it('creating exclusively refuses a key that is taken, and leaves the first content', async () => {
      await medium.createExclusive('once', Buffer.from('first'));
      await expect(medium.createExclusive('once', Buffer.from('second'))).rejects.toMatchObject({
        code: 'FILE_EXISTS',
      });
      expect((await medium.read('once')).toString()).toBe('first');
    });

    it('of many that create one key at once, exactly one wins and its content is there', async () => {
      if (!medium.capabilities.exclusive) return;
      const attempts = await Promise.allSettled(
        Array.from({ length: 16 }, (_, n) => medium.createExclusive('race/id', Buffer.from(`writer ${n}`))),
      );
      const winners = attempts.flatMap((attempt, n) => (attempt.status === 'fulfilled' ? [n] : []));
      expect(winners).toHaveLength(1);
      expect((await medium.read('race/id')).toString()).toBe(`writer ${winners[0]}`);
    });

    it('replacing puts new content in place, whether or not there was some', async () => {
      await medium.replace('s/summary', Buffer.from('one'));
      await medium.replace('s/summary', Buffer.from('two, longer'));
      expect((await medium.read('s/summary')).toString()).toBe('two, longer');
      expect(await listAll(medium, 's')).toEqual(['s/summary']);
    });

    it('a copy has the bytes of its source, never takes a name that is taken, and needs a source', async () => {
      const bytes = Buffer.alloc(9_000_000, 'some bytes');
      await medium.createExclusive('from/file', bytes);
      let told = 0;
      const onPart = async (count: number) => {
        told += count;
        await Promise.resolve();
      };
      await medium.copyFile('from/file', 'to/a/copy', onPart);
      expect((await medium.read('to/a/copy')).equals(bytes)).toBe(true);
      expect([0, bytes.length]).toContain(told);
      await medium.createExclusive('taken', Buffer.from('first'));
      await expect(medium.copyFile('from/file', 'taken', onPart)).rejects.toMatchObject({
        code: 'FILE_EXISTS',
      });
      expect((await medium.read('taken')).toString()).toBe('first');
      await expect(medium.copyFile('from/none', 'to/none', onPart)).rejects.toMatchObject({
        code: 'FILE_NOT_FOUND',
      });
    });

    it('a reader during replacements sees one content or the other, whole', async () => {
      const contents = ['x'.repeat(70_000), 'y'.repeat(10)];
      await medium.replace('r', Buffer.from(contents[0] ?? ''));
      const ended = new AbortController();
      const writing = (async () => {
        for (let n = 0; n < 20; n += 1) await medium.replace('r', Buffer.from(contents[n % 2] ?? ''));
        ended.abort();
      })();
      while (!ended.signal.aborted) expect(contents).toContain((await medium.read('r')).toString());
      await writing;
    });

    it('a file that is written in parts, small and large, holds them in order', async () => {
      const parts = [1, 100, 300_000, 5, 1_000_000, 0, 7].map((size, n) => Buffer.alloc(size, n + 1));
      {
        await using file = await medium.createFile('d/file');
        const reused = Buffer.alloc(1_000_000);
        for (const part of parts) {
          reused.set(part);
          await file.write([reused.subarray(0, part.length)]);
          reused.fill(0xff); // the buffer may be reused when the write has resolved
        }
        await file.write(parts.slice(0, 2));
        await file.close();
      }
      expect((await medium.read('d/file')).equals(Buffer.concat([...parts, ...parts.slice(0, 2)]))).toBe(
        true,
      );
    });

    it('beginning a file refuses a key that is taken', async () => {
      await medium.createExclusive('taken', Buffer.from('x'));
      await expect(medium.createFile('taken')).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    });

    it('an appendable file grows, and what was appended is read at once', async () => {
      if (!medium.capabilities.append) {
        await expect(medium.createAppendable('g')).rejects.toMatchObject({ code: 'NOT_SUPPORTED' });
        return;
      }
      await using file = await medium.createAppendable('g/grows');
      await file.append([Buffer.from('one '), Buffer.from('two ')]);
      expect((await medium.read('g/grows')).toString()).toBe('one two ');
      await file.append([Buffer.from('three')]);
      expect(file.sizeBytes).toBe(13);
      expect((await medium.read('g/grows')).toString()).toBe('one two three');
      await expect(medium.createAppendable('g/grows')).rejects.toMatchObject({ code: 'FILE_EXISTS' });
    });

    it('a missing file is FILE_NOT_FOUND to read, undefined to stat, nothing to delete', async () => {
      await expect(medium.read('no/such')).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
      await expect(medium.readRange('no/such', 0, 1)).rejects.toMatchObject({ code: 'FILE_NOT_FOUND' });
      expect(await medium.stat('no/such')).toBeUndefined();
      await medium.deleteMany(['no/such']);
    });

    it('an error names the key', async () => {
      await expect(medium.read('which/file')).rejects.toThrow(/which\/file/);
    });

    it('lists every file below a whole component, in pages of at most 1,000', async () => {
      const keys = Array.from({ length: 1_050 }, (_, n) => `many/${n % 3}/${n}`);
      for (const key of keys) await medium.replace(key, Buffer.from('x'));
      await medium.replace('many2/other', Buffer.from('x'));
      const pages: number[] = [];
      const found: string[] = [];
      for await (const page of medium.list('many')) {
        pages.push(page.length);
        found.push(...page.map((file) => file.key));
      }
      expect(found.toSorted()).toEqual(keys.toSorted());
      expect(Math.max(...pages)).toBeLessThanOrEqual(1_000);
      expect(await listAll(medium, 'nothing')).toEqual([]);
      expect((await listAll(medium, '')).length).toBe(1_051);
    });

    it('lists the names directly below a prefix', async () => {
      for (const key of ['t/1/a', 't/1/b', 't/2/a', 't/file']) await medium.replace(key, Buffer.from('x'));
      expect((await medium.listNames('t')).toSorted()).toEqual(['1', '2', 'file']);
      expect(await medium.listNames('')).toEqual(['t']);
      expect(await medium.listNames('nothing')).toEqual([]);
    });

    it('deletes many', async () => {
      for (const key of ['x/1', 'x/2', 'x/3']) await medium.replace(key, Buffer.from('x'));
      await medium.deleteMany(['x/1', 'x/3', 'x/4']);
      expect(await listAll(medium, 'x')).toEqual(['x/2']);
    });

    it('refuses keys that could leave the root', async () => {
      for (const key of ['', '/etc/passwd', '../x', 'a/../x', 'a//b', 'a/', '.hidden', 'a/./b', 'a\0b'])
        await expect(medium.read(key)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    });

    it('an aborted signal ends an operation before it begins', async () => {
      const signal = AbortSignal.abort();
      await expect(medium.createExclusive('aborted', Buffer.alloc(1), signal)).rejects.toThrow(/abort/i);
      expect(await medium.stat('aborted')).toBeUndefined();
    });

    it('is found usable by the probe, which leaves nothing behind', async () => {
      await probeMedium(medium, 'cluster/1/incarnation_1');
      await probeMedium(medium, '');
      expect(await listAll(medium, '')).toEqual([]);
    });
  });
}

async function listAll(medium: Medium, prefix: string): Promise<string[]> {
  const keys: string[] = [];
  for await (const page of medium.list(prefix)) keys.push(...page.map((file) => file.key));
  return keys.toSorted();
}

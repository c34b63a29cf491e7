/** The thread of read-ahead.ts: fetches, checks and decompresses archived log ahead of who asks for it. */
import { parentPort } from 'node:worker_threads';
import { defined } from '../../foundation/assert.ts';
import { HoldfastError, isError } from '../../foundation/errors.ts';
import type { LogStretch } from '../../storage-layout/clog/lookup.ts';
import { LogBuffers, type LogChunkRead, readLogFile } from '../../storage-layout/clog/read-log-file.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { openKeyedMedium } from '../../storage-layout/media/with-keys.ts';
import { plainError } from '../plain-error.ts';
import { threadSettings } from '../thread-settings.ts';
import type { FromReadAhead, ReadAheadSettings, ToReadAhead } from './read-ahead-protocol.ts';

const port = defined(parentPort, 'the port of a worker thread');
const settings = await threadSettings<ReadAheadSettings>(); // only read-ahead.ts starts this file
let opened: Medium | undefined;

const slots: Buffer[] = Array.from({ length: settings.slotCount }, () => Buffer.alloc(0));
const free: number[] = [...slots.keys()];
let freed: () => void = () => undefined;
let queue: Promise<void> = Promise.resolve();

/** Decompressed blocks go into slots. */
class SlotBuffers extends LogBuffers {
  /** The slot of the newest block, and its memory when that is new. */
  slot = 0;
  memory: SharedArrayBuffer | undefined;

  override async plain(sizeBytes: number): Promise<Buffer> {
    this.slot = await takeSlot();
    this.memory = undefined;
    if ((slots[this.slot]?.length ?? 0) < sizeBytes) {
      this.memory = new SharedArrayBuffer(sizeBytes);
      slots[this.slot] = Buffer.from(this.memory);
    }
    return defined(slots[this.slot], 'a slot');
  }
}

const buffers = new SlotBuffers();

async function readStretch({ file, begin, end }: LogStretch): Promise<void> {
  try {
    const medium = await openDestination();
    for await (const chunk of readLogFile(medium, file, begin, end, undefined, buffers))
      send(inSlot(buffers.slot, buffers.memory, chunk));
    send({ kind: 'read' });
  } catch (error) {
    send({ kind: 'failed', error: plainError(error) });
  }
}

/** The restore has it open already: when it is not there now, it has gone away, and may come back. */
async function openDestination(): Promise<Medium> {
  try {
    opened ??= await openKeyedMedium(settings.uri, settings.keys);
    return opened;
  } catch (cause) {
    if (!isError(cause, 'INVALID_BACKUP_DEST')) throw cause;
    throw new HoldfastError('DESTINATION_IO', cause.message, { cause });
  }
}

async function takeSlot(): Promise<number> {
  for (;;) {
    const slot = free.pop();
    if (slot !== undefined) return slot;
    const { promise, resolve } = Promise.withResolvers<void>();
    freed = resolve;
    await promise;
  }
}

/** The chunk as a message; one that was stored as it is lies elsewhere, and is copied into its slot. */
function inSlot(slot: number, memory: SharedArrayBuffer | undefined, chunk: LogChunkRead): FromReadAhead {
  const own = defined(slots[slot], 'a slot');
  const lies = chunk.data.buffer === own.buffer;
  if (!lies) own.set(chunk.data);
  const offset = lies ? chunk.data.byteOffset : 0;
  return { kind: 'chunk', slot, memory, begin: chunk.begin, offset, sizeBytes: chunk.data.length };
}

function send(message: FromReadAhead): void {
  port.postMessage(message, []);
}

port.on('message', (message: ToReadAhead) => {
  if (message.kind === 'stretch') queue = queue.then(() => readStretch(message));
  else {
    free.push(message.slot);
    freed();
  }
});

/** Writing a write-once file by a step that may be repeated. */
import type { DescMessage, MessageShape } from '@bufbuild/protobuf';
import { isError } from '../../foundation/errors.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { readInfo, writeOnce } from '../../storage-layout/records/info-file.ts';

/** Writes the file, or reads the one that an earlier try (or another) wrote. What is there counts, is made durable, and is returned. */
export async function writeOnceOrRead<Desc extends DescMessage>(
  medium: Medium,
  key: string,
  schema: Desc,
  message: MessageShape<Desc>,
  signal: AbortSignal,
): Promise<MessageShape<Desc>> {
  try {
    await writeOnce(medium, key, schema, message, signal);
    return message;
  } catch (error) {
    if (!isError(error, 'FILE_EXISTS')) throw error;
    // The try that wrote it may have failed at making it durable, and nothing may be decided from a file that can vanish.
    await medium.makeDurable(key, signal);
    return await readInfo(medium, key, schema, signal);
  }
}

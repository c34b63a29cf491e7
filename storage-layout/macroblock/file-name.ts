/** What a macroblock file says of itself. Apart from its writer, which worker threads load without protocol buffers. */
import { create } from '@bufbuild/protobuf';
import { MacroBlockFileInfoSchema } from '../../proto/gen/holdfast/v1/records_pb.ts';
import { encodeMessage } from '../records/messages.ts';

/** Plain data: it goes to worker threads. */
export type MacroBlockFileName = {
  readonly setId: bigint;
  readonly subTaskId: number;
  /** The payload of its macroBlockFile record. */
  readonly info: Uint8Array;
};

export function nameMacroBlockFile(
  setId: bigint,
  subTaskId: number,
  partitionGroup: string,
): MacroBlockFileName {
  const info = create(MacroBlockFileInfoSchema, { backupSetId: setId, subTaskId, partitionGroup });
  return { setId, subTaskId, info: encodeMessage(MacroBlockFileInfoSchema, info) };
}

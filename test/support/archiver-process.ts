/** The child of `forkArchiver`: archives until it is killed, and sends its progress to the parent. */
import { type JsonValue, toJson } from '@bufbuild/protobuf';
import { ArchiveProgressSchema } from '../../proto/gen/holdfast/v1/agent_pb.ts';
import { type ArchiverOptions, startArchiver } from './archiver.ts';

const options = JSON.parse(process.argv[2] ?? '{}') as ArchiverOptions; // from forkArchiver
const archiver = startArchiver(options);
setInterval(() => {
  const progress = archiver.progress();
  if (progress === undefined || process.send === undefined) return;
  const message: JsonValue = toJson(ArchiveProgressSchema, progress);
  process.send(message);
}, 20);
process.on('disconnect', () => process.exit(0));
await archiver.result;

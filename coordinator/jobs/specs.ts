/** What jobs and tasks keep of their statements: JSON in the `spec` columns. Ids are decimal text; URIs are encrypted. */
import { z } from 'zod';

const id = z.string().regex(/^\d+$/);

export const backupJobSpec = z.object({
  description: z.string(),
  plusArchivelog: z.boolean(),
  /** Encrypted URI. */
  destination: z.string(),
  displayDestination: z.string(),
  round: id,
  /** `incremental` becomes `full`, with the reason, when an increment cannot be made. */
  mode: z.enum(['full', 'incremental', 'synthetic']).default('full'),
  fullReason: z.string().default(''),
  /** Without it the backup is plain. `record`: its first key record; the data key is in the catalog's data_keys. */
  encryption: z.object({ mode: z.string(), record: z.string() }).optional(),
});
export type BackupJobSpec = z.infer<typeof backupJobSpec>;

export const archiveTaskSpec = z.object({ round: id });
export const backupTaskSpec = z.object({
  setId: id,
  ordinal: z.number().int(),
  /** It reads the destination, and no instance. */
  synthetic: z.boolean().default(false),
});

export const checkTaskSpec = z.object({
  purpose: z.enum(['archive', 'standby', 'backup']),
  /** Encrypted URI; empty: no destination is probed. */
  destination: z.string(),
  /** A standby of the group; without it the group's leader is looked at. */
  member: z.object({ serverId: id, instance: z.string() }).optional(),
});

export const validateJobSpec = z.object({
  /** Without it: all sets, and the log of all rounds. */
  setId: id.optional(),
  /** What was found right so long ago, or later, is left out. */
  maxAgeMs: z.number().int().nonnegative().optional(),
  /** Encrypted URI. */
  destination: z.string(),
  displayDestination: z.string(),
  /** Sets that were left out, for people. */
  skipped: z.string(),
});
export type ValidateJobSpec = z.infer<typeof validateJobSpec>;

/** `task` is a ValidateTask message as JSON, its source without the URI. */
export const validateTaskSpec = z.object({
  task: z.record(z.string(), z.unknown()),
  destination: z.string(),
  subject: z.object({ setId: id.optional(), fullSetId: id.optional(), round: id.optional() }),
  /** About as much as there is to read. */
  bytes: id,
});
export type ValidateTaskSpec = z.infer<typeof validateTaskSpec>;

/** `task` is a RestoreTask message as JSON, its source without the URI. */
export const restoreTaskSpec = z.object({
  task: z.record(z.string(), z.unknown()),
  destination: z.string(),
  /** Zones whose agents may take it; empty: any. */
  zones: z.array(z.string()),
  /** The keys of what it restores, encrypted; empty: it is plain. */
  keys: z.string().default(''),
});

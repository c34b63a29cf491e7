/**
 * The one error class, and the one table of its closed codes: OceanBase number and name, gRPC code, SQLSTATE,
 * process exit code, and whether trying the same thing again can help.
 */

type ErrorFacts = {
  /** OceanBase's number without the sign, or null where OceanBase has none. */
  readonly number: number | null;
  readonly sqlState: string;
  /** @grpc/grpc-js status code. */
  readonly grpc: number;
  readonly exitCode: number;
  readonly retryable: boolean;
};

const GRPC = {
  cancelled: 1,
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  alreadyExists: 6,
  permissionDenied: 7,
  failedPrecondition: 9,
  aborted: 10,
  internal: 13,
  unavailable: 14,
  dataLoss: 15,
} as const;

function facts(
  number: number | null,
  sqlState: string,
  grpc: number,
  exitCode: number,
  retryable = false,
): ErrorFacts {
  return { number, sqlState, grpc, exitCode, retryable };
}

export const ERRORS = {
  // OceanBase's own
  BACKUP_FILE_NOT_EXIST: facts(9011, 'HY000', GRPC.dataLoss, 4),
  RESTORE_IN_PROGRESS: facts(9014, 'HY000', GRPC.failedPrecondition, 3),
  CANNOT_START_LOG_ARCHIVE_BACKUP: facts(9023, 'HY000', GRPC.failedPrecondition, 3),
  ALREADY_NO_LOG_ARCHIVE_BACKUP: facts(9024, 'HY000', GRPC.failedPrecondition, 3),
  INVALID_BACKUP_DEST: facts(9026, 'HY000', GRPC.failedPrecondition, 3),
  LOG_ARCHIVE_INTERRUPTED: facts(9027, 'HY000', GRPC.failedPrecondition, 3),
  BACKUP_IN_PROGRESS: facts(9036, 'HY000', GRPC.failedPrecondition, 3),
  LOG_ARCHIVE_LEADER_CHANGED: facts(9039, 'HY000', GRPC.aborted, 3, true),
  BACKUP_CAN_NOT_START: facts(9040, 'HY000', GRPC.failedPrecondition, 3),
  CANCEL_BACKUP_NOT_ALLOWED: facts(9041, 'HY000', GRPC.failedPrecondition, 3),
  INVALID_BACKUP_SET_ID: facts(9046, 'HY000', GRPC.notFound, 3),
  BACKUP_INVALID_PASSWORD: facts(9047, 'HY000', GRPC.permissionDenied, 3),
  CANNOT_CANCEL_STOPPED_BACKUP: facts(9049, 'HY000', GRPC.failedPrecondition, 3),
  BACKUP_MOUNT_FILE_NOT_VALID: facts(9051, 'HY000', GRPC.failedPrecondition, 3),
  BACKUP_IO_PROHIBITED: facts(9063, 'HY000', GRPC.aborted, 3),
  ENTRY_NOT_EXIST: facts(4018, 'HY000', GRPC.notFound, 3),
  TENANT_NOT_EXIST: facts(5160, '42704', GRPC.notFound, 3),
  TENANT_EXIST: facts(5156, '42710', GRPC.alreadyExists, 3),
  // Holdfast's own
  SYNTAX_ERROR: facts(5001, '42601', GRPC.invalidArgument, 2),
  NOT_SUPPORTED: facts(4007, '0A000', GRPC.invalidArgument, 3),
  PRIVILEGE: facts(5036, '42501', GRPC.permissionDenied, 3),
  INVALID_ARGUMENT: facts(4002, '22023', GRPC.invalidArgument, 2),
  INVALID_CONFIG: facts(4147, 'F0000', GRPC.invalidArgument, 2),
  QUERY_CANCELLED: facts(5065, '57014', GRPC.cancelled, 130),
  CANCELLED: facts(4072, '57014', GRPC.cancelled, 130),
  TIMEOUT: facts(4012, '57014', GRPC.deadlineExceeded, 5, true),
  AUTHENTICATION_FAILED: facts(null, '28P01', GRPC.permissionDenied, 3),
  TOO_MANY_SESSIONS: facts(null, '53300', GRPC.unavailable, 5, true),
  TRANSACTION_STATE: facts(null, '25001', GRPC.failedPrecondition, 3),
  STATEMENT_NOT_EXIST: facts(null, '26000', GRPC.notFound, 3),
  PROTOCOL_VIOLATION: facts(null, '08P01', GRPC.invalidArgument, 3),
  SERVER_PRECHECK_FAILED: facts(null, 'HY000', GRPC.failedPrecondition, 3),
  SERVER_UNREACHABLE: facts(null, '08006', GRPC.unavailable, 5, true),
  AGENT_UNREACHABLE: facts(null, '08006', GRPC.unavailable, 5, true),
  SYSTEM_IDENTIFIER_MISMATCH: facts(null, 'HY000', GRPC.failedPrecondition, 3),
  LOG_GAP: facts(null, 'HY000', GRPC.dataLoss, 4),
  LOG_CONFLICT: facts(null, 'HY000', GRPC.dataLoss, 4),
  LOG_INDEX_INVALID: facts(null, 'XX001', GRPC.dataLoss, 4),
  WAL_UNREADABLE: facts(null, 'HY000', GRPC.dataLoss, 4),
  DATA_CORRUPT: facts(null, 'XX001', GRPC.dataLoss, 4),
  FORMAT_UNKNOWN: facts(null, 'HY000', GRPC.dataLoss, 4),
  DESTINATION_IO: facts(null, '58030', GRPC.unavailable, 5, true),
  DESTINATION_FULL: facts(null, '53100', GRPC.unavailable, 5, true),
  FILE_EXISTS: facts(null, '58P02', GRPC.alreadyExists, 3),
  FILE_NOT_FOUND: facts(null, '58P01', GRPC.notFound, 4),
  TARGET_NOT_RESTORABLE: facts(null, 'HY000', GRPC.failedPrecondition, 3),
  TARGET_NOT_EMPTY: facts(null, '58P02', GRPC.alreadyExists, 3),
  RESTORE_FAILED: facts(null, 'HY000', GRPC.internal, 4),
  /** An increment cannot be made: a full backup can. */
  FULL_BACKUP_NEEDED: facts(null, 'HY000', GRPC.failedPrecondition, 3),
  /** A full backup cannot be made of what is at the destination. */
  SYNTHETIC_BACKUP_REFUSED: facts(null, 'HY000', GRPC.failedPrecondition, 3),
  BACKUP_FAILED: facts(null, 'HY000', GRPC.internal, 4),
  SHUTTING_DOWN: facts(null, '57P01', GRPC.unavailable, 6, true),
  INTERNAL: facts(4000, 'XX000', GRPC.internal, 70),
} as const satisfies Record<string, ErrorFacts>;

export type ErrorCode = keyof typeof ERRORS;

export type ErrorOptions = {
  readonly cause?: unknown;
  /** What mends it: a statement, a setting, a command. */
  readonly hint?: string;
  /** The facts behind the message. */
  readonly detail?: string;
  /** 1-based character position in the statement, for SYNTAX_ERROR. */
  readonly position?: number;
};

/** The error of every failed operation. `message` says what was being done to what; secrets never enter it. */
export class HoldfastError extends Error {
  override readonly name = 'HoldfastError';
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly detail: string | undefined;
  readonly position: number | undefined;

  constructor(code: ErrorCode, message: string, options: ErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
    this.detail = options.detail;
    this.position = options.position;
  }

  get facts(): ErrorFacts {
    return ERRORS[this.code];
  }
}

/** What a destination answers, or does not answer: whoever meets it waits for the destination, and not for a server. */
export const DESTINATION_CODES: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'DESTINATION_IO',
  'DESTINATION_FULL',
  'INVALID_BACKUP_DEST',
  'BACKUP_MOUNT_FILE_NOT_VALID',
  'FILE_NOT_FOUND',
]);

export function isOfDestination(error: HoldfastError): boolean {
  return DESTINATION_CODES.has(error.code);
}

/** True when `error` is a HoldfastError of one of `codes`. */
export function isError(error: unknown, ...codes: readonly ErrorCode[]): error is HoldfastError {
  return error instanceof HoldfastError && codes.includes(error.code);
}

/** Any thrown thing as a HoldfastError; one that is none becomes INTERNAL with the cause kept. */
export function toHoldfastError(error: unknown): HoldfastError {
  if (error instanceof HoldfastError) return error;
  if (error instanceof Error && error.name === 'AbortError')
    return new HoldfastError('CANCELLED', error.message, { cause: error });
  // The reason of AbortSignal.timeout.
  if (error instanceof Error && error.name === 'TimeoutError')
    return new HoldfastError('TIMEOUT', error.message, { cause: error });
  return new HoldfastError('INTERNAL', error instanceof Error ? error.message : String(error), {
    cause: error,
  });
}

/** `OB-9040 BACKUP_CAN_NOT_START: log archive of tenant "orders" is STOP`, or without a number `DATA_CORRUPT: …`. */
export function formatError(error: HoldfastError): string {
  const { number } = error.facts;
  return `${number === null ? '' : `OB-${number} `}${error.code}: ${error.message}`;
}

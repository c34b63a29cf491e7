/** The engine's LogInspector for PostgreSQL: the parser, and the events and touches of the records it hands out. */
import type { Lsn } from '../../../foundation/lsn.ts';
import type { LogEvent, LogInspector, LogInspectorOptions, LogTouches } from '../../engine.ts';
import { RecordDecoder } from './blocks.ts';
import { eventOf, mayHoldEvent } from './events.ts';
import type { WalVersion } from './page.ts';
import { WalParser } from './parser.ts';
import { TouchRecorder } from './touches.ts';

/** Inspects one timeline's log from `options.begin` on. Errors as LogInspector says; after one, every push throws it. */
export function createLogInspector(options: LogInspectorOptions): LogInspector {
  return new PostgresLogInspector(options);
}

class PostgresLogInspector implements LogInspector {
  readonly #parser: WalParser;
  readonly #decoder = new RecordDecoder();
  readonly #touches = new TouchRecorder();
  #events: LogEvent[] = [];

  constructor(options: LogInspectorOptions) {
    const collects = options.collectTouches === true;
    const { major } = options;
    const version = major === undefined ? {} : { version: major as WalVersion }; // an unknown page magic is refused
    this.#parser = new WalParser({ ...options, ...version }, (record) => {
      if (collects) this.#touches.add(record, this.#decoder);
      if (!mayHoldEvent(record)) return true;
      const event = eventOf(record, this.#decoder);
      if (event !== undefined) this.#events.push(event);
      return true;
    });
  }

  push(begin: Lsn, data: Uint8Array): void {
    this.#parser.push(begin, data);
  }

  get position(): Lsn {
    return this.#parser.position;
  }

  get endOfRecords(): Lsn {
    return this.#parser.endOfRecords;
  }

  get unfinishedRecordBegin(): Lsn | undefined {
    return this.#parser.unfinishedRecordBegin;
  }

  takeEvents(): readonly LogEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  takeTouches(): LogTouches {
    return this.#touches.take();
  }
}

/**
 * Transition tables, checked twice: the compiler refuses an event that no state knows, and `step` refuses an event that
 * the present state does not allow (the caller sees undefined and decides; nothing is ever forced).
 */

/** For each state the events it allows, and where they lead. A state without events is final. */
export type TransitionTable<State extends string, Event extends string> = {
  readonly [S in State]: { readonly [E in Event]?: State };
};

/** The state after `event`, or undefined when `state` does not allow it. Pure. */
export function step<State extends string, Event extends string>(
  table: TransitionTable<State, Event>,
  state: State,
  event: Event,
): State | undefined {
  return table[state][event];
}

/** True when nothing can happen to this state any more. */
export function isFinal<State extends string, Event extends string>(
  table: TransitionTable<State, Event>,
  state: State,
): boolean {
  return Object.keys(table[state]).length === 0;
}

/** The full set of every chapter; its increments are numbered on from it. */
export const FULL_SET = 1n;

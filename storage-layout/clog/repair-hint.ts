/** What helps when an index cannot be used: its data are enough to make it anew. */
export const REPAIR_HINT =
  'If the log file itself is whole, `holdfast repair clog` makes the index anew from it.';

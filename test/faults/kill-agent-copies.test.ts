import { describeKillsOfCopies } from '../support/kill-copies.ts';

describeKillsOfCopies('agent');

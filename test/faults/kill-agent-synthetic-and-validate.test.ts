import { describeKillsInSyntheticAndValidate } from '../support/kill-synthetic-and-validate.ts';

describeKillsInSyntheticAndValidate('agent');

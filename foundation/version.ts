/** The version of this program, from package.json. */
import manifest from '../package.json' with { type: 'json' };

/** `0.1.0` */
export const VERSION: string = manifest.version;

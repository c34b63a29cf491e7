/** The media the coordinator has open, one per URI, opened when first needed. Its secrets never leave this file. */

import { type KeyRing, ringOf as ringOfKeys } from '../../storage-layout/encryption/key-ring.ts';
import type { Medium } from '../../storage-layout/media/medium.ts';
import { maskUri, openMedium } from '../../storage-layout/media/open.ts';
import { withKeys } from '../../storage-layout/media/with-keys.ts';

export class Destinations implements AsyncDisposable {
  readonly #media = new Map<string, Promise<Medium>>();
  readonly #ringOf: (medium: Medium) => KeyRing;

  /** `ringOf`: the keys of what is encrypted at a destination. */
  constructor(ringOf: (medium: Medium) => KeyRing = () => ringOfKeys([])) {
    this.#ringOf = ringOf;
  }

  /** Throws INVALID_BACKUP_DEST when it cannot be opened; the next call tries again. */
  open(uri: string, signal: AbortSignal): Promise<Medium> {
    const known = this.#media.get(uri);
    if (known !== undefined) return known;
    const opening = openMedium(uri, signal).then((medium) => withKeys(medium, this.#ringOf(medium)));
    this.#media.set(uri, opening);
    opening.catch(() => this.#media.delete(uri)); // the caller has the error
    return opening;
  }

  display(uri: string): string {
    return maskUri(uri);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const media = await Promise.allSettled(this.#media.values());
    this.#media.clear();
    for (const medium of media) if (medium.status === 'fulfilled') await medium.value[Symbol.asyncDispose]();
  }
}

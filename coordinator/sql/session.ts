/** What belongs to one client's connection: who it is, and what SET said in it. Nothing of it outlives the client. */

export type SqlSession = {
  readonly user: string;
  /** For logs and events: `psql`, `holdfast sql`, a driver's name; empty when the client gave none. */
  readonly applicationName: string;
  /** SET ENCRYPTION ON IDENTIFIED BY …; undefined: off. */
  encryption: { readonly password: string; readonly only: boolean } | undefined;
  /** SET DECRYPTION IDENTIFIED BY …; empty: none. */
  decryptionPasswords: readonly string[];
  /** What SHOW RESTORE PREVIEW shows: kept by the restore command, opaque here. */
  restorePreview: unknown;
};

export function createSession(user: string, applicationName = ''): SqlSession {
  return { user, applicationName, encryption: undefined, decryptionPasswords: [], restorePreview: undefined };
}

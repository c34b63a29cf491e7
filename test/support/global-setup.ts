/** Runs once before a project's tests: what all of them copy is there when the first one starts. */
import { provideCatalogTemplate } from './catalog-template.ts';

export async function setup(): Promise<void> {
  await provideCatalogTemplate();
}

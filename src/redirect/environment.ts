/** What a tool gets to know of its surroundings: how to print, nothing of the host. */

const PASSED_ON = /^(?:TERM|COLORTERM|COLUMNS|LINES|LANG|LANGUAGE|LC_[A-Z]+)$/;
/** Where a tool looks for programs. */
export const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * @param own of this process
 * @param wanted NAME=VALUE; wins over the others
 */
export function toolEnvironment(own: NodeJS.ProcessEnv, wanted: readonly string[] = []): Buffer[] {
  const variables = new Map<string, string>([
    ['PATH', SEARCH_PATH],
    ['HOME', '/'],
    // There is no place for what the reader of a page or a shell remembers.
    ['LESSHISTFILE', '-'],
    ['HISTFILE', ''],
  ]);
  for (const [name, value] of Object.entries(own)) {
    if (PASSED_ON.test(name) && value !== undefined) variables.set(name, value);
  }
  for (const entry of wanted) {
    const at = entry.indexOf('=');
    variables.set(entry.slice(0, at), entry.slice(at + 1));
  }
  return [...variables].map(([name, value]) => Buffer.from(`${name}=${value}`));
}

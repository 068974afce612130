import { mkdtempSync, rmSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';

/** Something of the host by which it can be recognised. */
export interface Canary {
  value: string;
  /** A command that shows it when the host answers. */
  shownBy: string;
}

/**
 * A host with canaries: namespaces of mounts and of the host's name in which `command` runs a program, and which vanish
 * with it. Nothing outside them changes but the folder.
 */
export class CanaryHost implements Disposable {
  readonly folder = mkdtempSync(join(tmpdir(), 'canary-folder-'));
  readonly canaries: readonly Canary[] = [
    { value: 'canary-host', shownBy: 'hostname' },
    { value: 'canary-user', shownBy: 'getent passwd' },
    { value: 'canary-group', shownBy: 'getent group' },
    { value: 'canary-address', shownBy: 'cat /etc/hosts' },
    { value: 'canary-file', shownBy: 'ls -l /etc' },
    { value: 'canary-mount', shownBy: 'mount' },
    { value: 'canary-process', shownBy: 'ps -eo comm' },
    { value: 'canary-socket', shownBy: 'ss -xan' },
    { value: 'canary-value', shownBy: 'env' },
    { value: 'canary-folder', shownBy: 'pwd' },
    { value: 'CNRY', shownBy: 'date' },
    { value: String(new Date().getUTCFullYear()), shownBy: 'date -u +%Y' },
    { value: release(), shownBy: 'uname -r' },
  ];
  readonly environment = { CANARY: 'canary-value', LANG: 'C' };

  /** What to spawn to run a program there, with `canary-process` beside it. Needs root. */
  command(...words: string[]): string[] {
    return ['unshare', '--mount', '--uts', '--propagation', 'private', 'sh', '-euc', PREPARE, this.folder, ...words];
  }

  /** Where a server of the program makes its socket. */
  get socket(): string {
    return join(this.folder, 'canary-socket');
  }

  [Symbol.dispose](): void {
    rmSync(this.folder, { recursive: true });
  }
}

// $0 is the folder. The process that is to be seen ends with the program, whatever way that ends.
const PREPARE = `
  mkdir "$0/etc"
  mount -t tmpfs canary-mount "$0/etc"
  cp -a /etc/. "$0/etc"
  mount --bind "$0/etc" /etc
  hostname canary-host
  echo canary-user:x:60101:60101::/:/bin/false >> /etc/passwd
  echo canary-group:x:60101: >> /etc/group
  echo 127.9.9.9 canary-address >> /etc/hosts
  echo > /etc/canary-file
  echo Zone canary 5:00 - CNRY > "$0/zone"
  rm -f /etc/localtime
  zic -d "$0/zones" "$0/zone"
  cp "$0/zones/canary" /etc/localtime
  cp "$(command -v sleep)" "$0/canary-process"
  cd "$0"
  setpriv --pdeathsig KILL "$0/canary-process" 1000 &
  exec "$@"
`;

/** Guests that others run: as other users, in namespaces of their own; and many of them at a time. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { attach, type Guest, listGuests } from '../../src/index.js';
import type { LabSpec } from '../../src/lab/index.js';
import { cli, penumbra, shell } from '../lab/commandLine.js';
import { labGuest, type TestGuest } from '../lab/driver.js';
import { collectGarbage } from '../lab/rounds.js';

const LONG = process.env['PENUMBRA_LONG'] !== undefined;
t.setTimeout(LONG ? 1_800_000 : 300_000);

const NOBODY = 65534;
/** The signal that ends QEMU with its parent does not outlast a change of user. */
const AS_NOBODY = `setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups --pdeathsig=KILL`.split(' ');
const GUESTS = LONG ? 20 : 3;
const MOST_PRIVATE_MIB = 15;

const needsRoot = { skip: process.getuid?.() !== 0 && 'only root can become another, or make namespaces' };

async function answers(t: Test, guest: Guest, lab: TestGuest): Promise<void> {
  t.same((await guest.uname()).release.toString(), await lab.text('uname -r'));
  const pids = (await guest.processes()).map(({ pid }) => pid);
  t.ok(pids.includes(1) && pids.length > 20, `${pids.length} processes`);
}

t.test("another user's guest", needsRoot, async (t) => {
  for (const ram of ['memfd', 'private'] as const) {
    await t.test(ram, async (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'penumbra-test-'));
      t.teardown(() => rmSync(folder, { recursive: true, force: true }));
      chownSync(folder, NOBODY, NOBODY);
      await using lab = await labGuest(t, { ram }, { folder, within: AS_NOBODY });
      t.match(
        (await listGuests()).find(({ pid }) => pid === lab.pid),
        { uid: NOBODY, state: 'running' },
      );
      for (const choice of [{ qmp: lab.socket }, { guest: String(lab.pid) }]) {
        await using guest = await attach(choice);
        await answers(t, guest, lab);
      }
      // Its own user has all rights that are needed.
      const own = await shell(`${AS_NOBODY.join(' ')} ${process.execPath} ${penumbra} ps --qmp ${lab.socket}`);
      if (yamaScope() === 0) t.match(own, { status: 0, stdout: /\n/ });
      else if (ram === 'private')
        t.match(own, { status: 1, stderr: /CAP_SYS_PTRACE .*, or as QEMU's user with kernel\.yama/ });
      if (kvmIsClosed()) {
        const fast = await shell(
          `${AS_NOBODY.join(' ')} ${process.execPath} ${penumbra} uname --engine kvm --qmp ${lab.socket}`,
        );
        t.match(fast, {
          status: 1,
          stderr: /^penumbra: PERMISSION: cannot open \/dev\/kvm \(the group kvm may, normally\)/,
        });
      }
      // And another has none, or those that are given to it.
      const other = (rights: string) =>
        shell(
          `setpriv --reuid=1 --regid=1 --clear-groups ${rights} ${process.execPath} ${penumbra} ps --qmp ${lab.socket}`,
        );
      execFileSync('chmod', ['755', folder]);
      execFileSync('chmod', ['666', lab.socket]);
      const unseen =
        /^penumbra: PERMISSION: user 1 may not see .*CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.*'penumbra guests'/;
      t.match(await other(''), { status: 1, stderr: unseen });
      const unread = /^penumbra: PERMISSION: guest RAM .*\(and CAP_DAC_READ_SEARCH for another user's QEMU\)/;
      t.match(await other(given('+sys_ptrace')), { status: 1, stderr: unread });
      t.match(await other(given('+sys_ptrace,+dac_read_search')), { status: 0, stdout: /\n/ });
    });
  }
});

/** Options of setpriv(1) that leave a user capabilities. */
function given(capabilities: string): string {
  return `--inh-caps=${capabilities} --ambient-caps=${capabilities}`;
}

/** Whether there is a KVM that not everybody may use. */
function kvmIsClosed(): boolean {
  return existsSync('/dev/kvm') && (statSync('/dev/kvm').mode & 0o6) !== 0o6;
}

/** Documentation/admin-guide/LSM/Yama.rst; 0 also where the kernel has no Yama. */
function yamaScope(): number {
  const path = '/proc/sys/kernel/yama/ptrace_scope';
  return existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
}

t.test('a guest in pid and mount namespaces of its own', needsRoot, async (t) => {
  // As a container has it: a QMP socket in a file system that nobody else sees.
  const hide = 'mount -t tmpfs none /mnt; exec "$@" -qmp unix:/mnt/hidden.sock,server=on,wait=off';
  const within = ['unshare', '--pid', '--mount', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', hide, 'sh'];
  await using lab = await labGuest(t, { ram: 'private', vcpus: 2 }, { within });
  t.notOk(existsSync('/mnt/hidden.sock'));
  const name = lab.lab.folder.replace(/^.*\//, '');
  const found = (await listGuests()).find((record) => record.name === name);
  t.match(found, { uid: 0, state: 'running' });
  const pid = found?.pid as number;
  t.not(pid, lab.pid, 'what was started is unshare');

  await t.test('by name, by pid, by its socket', async (t) => {
    for (const choice of [{ guest: name }, { guest: String(pid) }, { qmp: `/proc/${pid}/root/mnt/hidden.sock` }]) {
      await using guest = await attach(choice);
      t.equal(guest.pid, pid);
      await answers(t, guest, lab);
    }
  });
  await t.test('by the socket that only it sees, when the others are taken', async (t) => {
    const client = connect(lab.socket);
    await once(client, 'data');
    await lab.qmp('query-status');
    const { stdout } = await cli('uname', '--guest', name);
    t.match(stdout.toString(), /^Linux lab /);
    client.destroy();
  });
});

/** What only this process has, in MiB: proc_pid_smaps, smaps_rollup. */
function privateMiB(): number {
  collectGarbage();
  const kib = readFileSync('/proc/self/smaps_rollup', 'utf8').matchAll(/^Private_\w+:\s+(\d+) kB$/gm);
  return [...kib].reduce((sum, [, value]) => sum + Number(value), 0) / 1024;
}

t.test('many guests attached and idle', async (t) => {
  const spec: Partial<LabSpec> = { kernel: '6.1', memoryMiB: 128 };
  const labs: TestGuest[] = [];
  const guests: Guest[] = [];
  t.teardown(async () => {
    for (const guest of guests) await guest.close();
  });
  for (let count = 0; count <= GUESTS; count += 1) labs.push(await labGuest(t, spec));
  // The first one brings what all share.
  const use = async (lab: TestGuest): Promise<void> => {
    const guest = await attach({ qmp: lab.socket });
    guests.push(guest);
    await guest.processes();
  };
  await use(labs[0] as TestGuest);
  const before = privateMiB();
  for (const lab of labs.slice(1)) await use(lab);
  const each = (privateMiB() - before) / GUESTS;
  t.comment(`${GUESTS} more guests: ${each.toFixed(1)} MiB of private memory each`);
  t.ok(each <= MOST_PRIVATE_MIB);
});

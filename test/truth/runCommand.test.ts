/** `penumbra run` as one uses it: several guests, exit status, signals, a terminal. */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { hostProgram } from '../../src/lab/hostTools.js';
import { cli, penumbra, shell } from '../lab/commandLine.js';
import { labGuest, type TestGuest } from '../lab/driver.js';

t.setTimeout(300_000);

t.test('run', async (t) => {
  await using guest = await labGuest(t);
  const run = (...words: string[]) => cli('run', '--qmp', guest.socket, '--budget', '0', '--', ...words);

  await t.test('exit status, as a shell gives it', async (t) => {
    const status = async (...words: string[]): Promise<number | null> => (await run(...words)).status;
    t.equal(await status('sh', '-c', 'exit 42'), 42);
    t.equal(await status('sh', '-c', 'sleep 9 & kill -TERM $!; wait $!'), 143);
    t.equal(await status('sh', '-c', 'nosuchprogram'), 127);
    t.equal(await status('sh', '-c', '/etc/passwd'), 126);
    t.equal(await status('nosuchprogram'), 127);
    t.equal(await status('/nowhere/nosuchprogram'), 127);
    t.equal(await status('/etc/passwd'), 126);
    if (hostProgram('python3') !== undefined) {
      t.equal(await status('python3', '-I', '-S', '-c', 'import os; os.abort()'), 134);
    }
  });

  await t.test('mistakes', async (t) => {
    t.match((await run('nosuchprogram')).stderr, /^penumbra: NO_TOOL: this host has no program 'nosuchprogram'\n$/);
    t.match((await cli('run', '--qmp', guest.socket)).stderr, /run needs a tool: penumbra run -- TOOL/);
    const bare = await cli('run', '--qmp', guest.socket, 'ls', '-l');
    t.match(bare, { status: 2, stderr: /a tool and its options come after --/ });
    const refused = await run('rm', '/etc/passwd');
    t.match(refused.stderr, /penumbra: unlinkat of \/etc\/passwd is refused: --scratch lets it succeed in the shadow/);
    t.match(await guest.text('cat /etc/passwd'), /alice/);
  });

  await t.test('pipes', async (t) => {
    const tool = `$penumbra run --qmp ${guest.socket} --budget 0 --`;
    t.equal((await shell(`echo given | ${tool} cat`)).stdout.toString(), 'given\n');
    t.equal((await shell(`${tool} ls -l /srv/tree/many | head -n 1`)).stdout.toString(), 'total 0\n');
    t.equal(await guest.runState(), 'running');
  });

  await t.test('JSON', async (t) => {
    const words = ['sh', '-c', 'ls /srv; ls /x; exit 3'];
    const { stdout, status } = await cli('run', '--qmp', guest.socket, '--json', '--', ...words);
    t.equal(status, 3);
    t.match(JSON.parse(stdout.toString()), { ok: true, exit: 3, stdout: 'tree\nwww\n', stderr: /No such file/ });
  });

  await t.test('Ctrl-C', (t) => interrupt(t, guest));
  const skip = hostProgram('script') === undefined && 'needs script(1)';
  await t.test('in a terminal', { skip }, (t) => terminal(t, guest));
});

/** The signal goes to the whole group, as a terminal sends it. */
async function interrupt(t: Test, guest: TestGuest): Promise<void> {
  const marker = `${guest.socket}-interrupted`;
  const command = `echo ready; sleep 1 & while :; do :; done & while :; do :; done; : ${marker}`;
  const words = [penumbra, 'run', '--qmp', guest.socket, '--', 'sh', '-c', command];
  const child = spawn(process.execPath, words, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, NODE_OPTIONS: '' },
    detached: true,
  });
  const ended = once(child, 'close');
  await once(child.stdout, 'data');
  process.kill(-(child.pid as number), 'SIGINT');
  t.equal((await ended)[0], 130);
  t.equal(spawnSync('pgrep', ['-f', `sh -c .*${marker}`], { encoding: 'utf8' }).stdout, '', 'no process is left');
  t.equal(await guest.runState(), 'running');
}

async function terminal(t: Test, guest: TestGuest): Promise<void> {
  const inTerminal = async (tool: string, typed: string): Promise<string> => {
    const command = `stty cols 90 rows 20; $penumbra run --qmp ${guest.socket} --budget 0 -- ${tool}; echo "status $?"`;
    // Again and again: what comes before a tool has taken the terminal over is lost.
    const keys = `for second in $(seq 30); do sleep 1; printf "${typed}"; done`;
    const script = `(${keys}) 2> /dev/null | TERM=xterm timeout 40 script -qc '${command}' /dev/null`;
    return (await shell(script)).stdout.toString('latin1');
  };
  const listing = await inTerminal('ls --color=auto -d /srv', '\\n');
  t.ok(listing.includes('\x1b[01;34m/srv\x1b[0m') && listing.includes('status 0'), listing);
  t.match(await inTerminal('sh', 'uname -n; exit 3\\n'), /job control turned off[\s\S]*lab[\s\S]*status 3/);
  if (hostProgram('less') !== undefined) {
    t.match(await inTerminal('less /etc/passwd', 'q'), /alice[\s\S]*\/etc\/passwd \(END\)[\s\S]*status 0/);
  }
  if (hostProgram('top') !== undefined)
    t.match(await inTerminal('top', 'q'), /Tasks:[\s\S]*COMMAND[\s\S]*init[\s\S]*status 0/);
}

const hasNamespaces = spawnSync('unshare', ['--pid', '--fork', '--mount-proc', 'true']).status === 0;

t.test('run --all', { skip: !hasNamespaces && 'needs a pid namespace' }, async (t) => {
  // A pid namespace, so that the guests of other tests are not among them.
  const script = [
    'export XDG_RUNTIME_DIR=$(mktemp -d)',
    '($penumbra lab up old --kernel 5.10; $penumbra lab up young --kernel 6.12) > /dev/null 2>&1',
    '$penumbra run --all --json -- uname -r; echo "status $?"',
    '$penumbra run --all -- sh -c "uname -s; uname -r; exit 4"; echo "status $?"',
    '$penumbra run --all -- ls /nonexistent',
    '$penumbra lab down old; $penumbra lab down young; rm -r $XDG_RUNTIME_DIR',
  ].join('\n');
  const { stdout, stderr } = await shell(`unshare --pid --fork --mount-proc bash -c '${script}'`);
  const [json = '', first, ...lines] = stdout.toString().split('\n');
  t.match(JSON.parse(json), [
    { guest: 'old', ok: true, exit: 0, stdout: /^5\.10\./, stderr: '' },
    { guest: 'young', ok: true, exit: 0, stdout: /^6\.12\./, stderr: '' },
  ]);
  t.equal(first, 'status 0');
  t.match(lines, ['old: Linux', /^old: 5\.10\./, 'young: Linux', /^young: 6\.12\./, 'status 4', '']);
  t.match(stderr, /^old: .*\/nonexistent.*\nyoung: .*\/nonexistent.*\n$/);
});

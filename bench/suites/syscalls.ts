import type { Guest } from '../../src/index.js';
import type { LabGuest } from '../../src/lab/index.js';
import { AT_FDCWD, O_DIRECTORY } from '../../src/shadow/constants.js';
import { out, StepList } from '../../src/shadow/stepList.js';
import type { Report } from '../report.js';
import { repeat, type Summary, summarise } from '../statistics.js';

const callsPerRound = 200;

const calls: Record<string, (list: StepList) => void> = {
  getpid: (list) => list.add('getpid'),
  uname: (list) => list.add('uname', out(390)),
  stat: (list) => list.stat(AT_FDCWD, Buffer.from('/proc/1/status'), 0),
  'read-stat': (list) => readFileSteps(list, '/proc/1/stat'),
  'read-status': (list) => readFileSteps(list, '/proc/1/status'),
  'list-proc': (list) => {
    const fd = list.open(AT_FDCWD, Buffer.from('/proc'), O_DIRECTORY);
    list.readDirectory(fd, 1 << 20);
    list.close(fd);
  },
};

/** A few syscalls in the shadow against the same natively in the guest. */
export async function measureSyscalls(lab: LabGuest, guest: Guest, report: Report, rounds: number): Promise<void> {
  report.suite('one syscall: in the shadow, and natively in the guest');
  const native = await runProbe(lab);
  for (const [name, add] of Object.entries(calls)) {
    const steps = new StepList();
    for (let i = 0; i < callsPerRound; i += 1) add(steps);
    const times = await repeat(rounds, () =>
      guest.use(async (shadow) => {
        const begin = performance.now();
        await shadow.batch(steps.steps);
        return ((performance.now() - begin) * 1000) / callsPerRound;
      }),
    );
    const shadow = summarise(times);
    report.add(`${name}, shadow`, 'us', shadow);
    const inGuest = native.get(name);
    if (inGuest === undefined) continue;
    report.add(`${name}, in the guest`, 'us', inGuest);
    report.ratio(`${name}, shadow / guest`, shadow, inGuest, { tcg: 1.75, kvm: 1.75 });
  }
}

function readFileSteps(list: StepList, path: string): void {
  const fd = list.open(AT_FDCWD, Buffer.from(path), 0);
  list.readOnce(fd, 4096);
  list.close(fd);
}

/** Runs the probe, which the guest was started with. */
async function runProbe(lab: LabGuest): Promise<Map<string, Summary>> {
  const { stdout } = await lab.run('probe');
  const results = new Map<string, Summary>();
  for (const line of stdout.toString().trim().split('\n')) {
    const [name = '', median, minimum] = line.split(' ');
    results.set(name, { median: Number(median) / 1000, minimum: Number(minimum) / 1000, rounds: 100 });
  }
  return results;
}

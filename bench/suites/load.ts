import type { Guest } from '../../src/index.js';
import type { BatchStep } from '../../src/shadow/batch.js';
import type { ShadowTimes } from '../../src/shadow/shadow.js';
import { StepList } from '../../src/shadow/stepList.js';
import { afterPause } from '../pause.js';
import type { Report } from '../report.js';
import { repeat, summarise } from '../statistics.js';

/** rounds after which native/shadow/shadow.cc first gives back all private pages */
const FORGOTTEN_AFTER = 16;

/** From the stop to the loaded context, against what stopping and reading registers cost by themselves. */
export async function measureLoad(guest: Guest, report: Report, rounds: number): Promise<void> {
  report.suite('stop -> context loaded (session, one getpid in each shadow)');
  const getpid = new StepList();
  getpid.add('getpid');
  // The pages of larger shadows before are kept, and brought up to date, for some rounds more.
  await repeat(FORGOTTEN_AFTER, () => enter(guest, getpid.steps));
  const rows = await repeat(rounds, async () => ({
    bare: await afterPause(() => guest.measureStop()),
    byStub: await afterPause(() => guest.measureStop(false)),
    small: await afterPause(() => enter(guest, getpid.steps)),
  }));
  const [bare, byStub, small] = [
    rows.map((row) => row.bare),
    rows.map((row) => row.byStub),
    rows.map((row) => row.small),
  ];
  report.add('bare stop', 'ms', summarise(bare.map(({ stop }) => stop)));
  report.add('bare stop + registers', 'ms', summarise(bare.map(({ stop, registers }) => stop + registers)));
  report.add(
    'bare stop + registers + resume',
    'ms',
    summarise(bare.map(({ stop, registers, resume }) => stop + registers + resume)),
  );
  const whole = small.map(({ stop, registers, load }) => stop + registers + load);
  report.add('stop -> context loaded', 'ms', summarise(whole), 0.17);
  report.add('own share: private pages (while registers travel)', 'ms', summarise(small.map(({ refresh }) => refresh)));
  report.add('own share: context and engine', 'ms', summarise(small.map(({ load }) => load)));
  report.add('own share, both', 'ms', summarise(small.map(({ refresh, load }) => refresh + load)), {
    tcg: 0.05,
    kvm: 0.25,
  });
  const reading = summarise(bare.map(({ stop, registers }) => stop + registers));
  const { stopWay } = await guest.info();
  if (stopWay !== 'gdbstub') {
    const asked = summarise(byStub.map(({ stop, registers }) => stop + registers));
    report.add('bare stop + registers by the gdbstub', 'ms', asked);
    report.ratio(`bare stop + registers: ${stopWay} / gdbstub`, reading, asked, { kvm: 1 / 3 });
  }
  report.ratio('stop -> loaded / bare stop + registers', summarise(whole), reading, { kvm: 1.5 });
}

async function enter(guest: Guest, steps: BatchStep[]): Promise<ShadowTimes> {
  return guest.use(async (shadow) => {
    await shadow.batch(steps);
    return shadow.times;
  });
}

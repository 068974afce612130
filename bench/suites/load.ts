import type { Guest } from '../../src/index.js';
import type { BatchStep } from '../../src/shadow/batch.js';
import { StepList } from '../../src/shadow/stepList.js';
import type { Report } from '../report.js';
import { repeat, summarise } from '../statistics.js';

/** From the stop to the loaded context, against what stopping and reading registers cost by themselves. */
export async function measureLoad(guest: Guest, report: Report, rounds: number): Promise<void> {
  report.suite('stop -> context loaded (session, one getpid in each shadow)');
  const getpid = new StepList();
  getpid.add('getpid');
  const bare = await repeat(rounds, () => guest.measureStop());
  const byStub = await repeat(rounds, () => guest.measureStop(false));
  const small = await shadows(guest, rounds, getpid.steps);
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

async function shadows(guest: Guest, rounds: number, steps: BatchStep[]) {
  return repeat(rounds, async () => {
    const times = await guest.use(async (shadow) => {
      await shadow.batch(steps);
      return shadow.times;
    });
    return times;
  });
}

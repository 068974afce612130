import type { GuestInfo } from '../schedule/guest.js';
import { escapeBytes } from '../text.js';
import { guestCommand } from './guestCommand.js';
import { byteSize, hex } from './quantity.js';
import { properties, table } from './table.js';

export const info = guestCommand<object, GuestInfo>({
  examples: [
    ['penumbra info', 'the only guest of this host'],
    ['penumbra info --guest web1 --json', 'the same as JSON: addresses beyond 2^53 are decimal strings'],
  ],
  ask: (guest) => guest.info(),
  text: describe,
});

function describe({
  name,
  pid,
  state,
  kernel,
  vcpus,
  onlineCpus,
  engine,
  engineReason,
  stopWay,
  stopWayReason,
  borrowed,
  ram,
  steps,
}: GuestInfo): string {
  const facts = properties([
    ['guest', `${escapeBytes(name)} (pid ${pid}), found ${escapeBytes(state)}`],
    ['kernel', escapeBytes(kernel.release)],
    ['banner', escapeBytes(kernel.banner)],
    ['slide', hex(kernel.slide)],
    ['page tables', `${kernel.pageTableLevels} levels, isolation (PTI) ${kernel.pti ? 'on' : 'off'}`],
    ['processors', `${vcpus}, ${onlineCpus} of them online`],
    ['engine', `${engine}: ${engineReason}`],
    ['stops', `${stopWay}: ${stopWayReason}`],
    ['borrowed', `process ${borrowed.pid} (${escapeBytes(borrowed.comm)})`],
  ]);
  const memory = table(
    [
      { title: 'RAM FROM', text: ({ gpa }) => hex(gpa), align: 'right' },
      { title: 'TO', text: ({ gpa, size }) => hex(gpa + size - 1n), align: 'right' },
      { title: 'SIZE', text: ({ size }) => byteSize(size), align: 'right' },
      { title: 'KIND', text: ({ kind }) => kind },
      { title: 'NAME', text: (region) => escapeBytes(region.name) },
    ],
    ram,
  );
  const costs = table(
    [
      { title: 'MS', text: ({ milliseconds }) => milliseconds.toFixed(1), align: 'right' },
      { title: 'STEP', text: (step) => step.name },
    ],
    steps,
  );
  return `${facts}\n${memory}\n${costs}`;
}

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { findEmulator } from '../../src/lab/artefacts.js';
import { assemble } from './assembler.js';
import { TruthMonitor } from './truthMonitor.js';

const MIB = 1 << 20;

export interface BareSpec {
  /** what stands in RAM before the machine is switched on */
  ram?: Buffer;
  /** the first sector of its disk; without it there is nothing to boot */
  bootSector?: Buffer;
  /** do not start the processor */
  halted?: boolean;
  /** RAM that nobody else can map */
  isPrivate?: boolean;
}

/** A PC without Linux: firmware, 64 MiB of shared RAM, a QMP and an HMP monitor. */
export interface BareMachine {
  pid: number;
  qmp: string;
  /** of the human monitor */
  hmp: string;
  truth: TruthMonitor;
  runState(): Promise<string>;
}

/** Switches it on; it ends with the test. */
export async function bareMachine(
  t: Test,
  { ram, bootSector, halted, isPrivate }: BareSpec = {},
): Promise<BareMachine> {
  const folder = await mkdtemp('/dev/shm/penumbra-test-');
  const file = (name: string) => join(folder, name);
  await using memory = await open(file('ram'), 'w');
  await memory.truncate(64 * MIB);
  if (ram !== undefined) await memory.write(ram);
  if (bootSector !== undefined) await writeFile(file('disk'), Buffer.concat([bootSector, Buffer.alloc(MIB)]));
  const socket = (name: string) => `unix:${file(name)},server=on,wait=off`;
  const sharedMemory = `memory-backend-file,id=ram,size=64M,share=on,mem-path=${file('ram')}`;
  const child = spawn(
    'setpriv',
    [
      ...['--pdeathsig', 'KILL', findEmulator('system'), '-name', 'bare', '-nodefaults', '-no-user-config'],
      ...['-display', 'none', '-accel', 'tcg', '-m', '64M', '-machine', 'pc,memory-backend=ram'],
      ...['-object', isPrivate ? 'memory-backend-ram,id=ram,size=64M' : sharedMemory],
      ...['-qmp', socket('qmp'), '-qmp', socket('truth'), '-monitor', socket('hmp')],
      ...(bootSector === undefined ? [] : ['-drive', `file=${file('disk')},format=raw,if=ide`]),
      ...(halted ? ['-S'] : []),
    ],
    { stdio: 'ignore' },
  );
  const ended = once(child, 'exit');
  t.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true });
  });
  while (!existsSync(file('hmp'))) await sleep(5);
  const truth = await TruthMonitor.connect(file('truth'));
  t.teardown(() => truth.close());
  const runState = async () => ((await truth.execute('query-status')) as { status: string }).status;
  return { pid: child.pid as number, qmp: file('qmp'), hmp: file('hmp'), truth, runState };
}

const ORIGIN = 0x7c00;
const [TABLE, TABLE_REGISTER, LONG_CODE, SIGNATURE] = [0x100, 0x120, 0x140, 510];

/**
 * An operating system that is not Linux: switches to long mode, with its first 2 MiB at 0 and at 0xffffffff80000000, and
 * spins there.
 */
export async function spinningSystem(): Promise<Buffer> {
  const sector = Buffer.alloc(512);
  const start = [
    'cli; xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax; mov sp, 0x7c00; cld',
    'mov edi, 0x1000; mov cr3, edi; xor eax, eax; mov ecx, 0xc00; rep stosd',
    'mov dword ptr [0x1000], 0x2003; mov dword ptr [0x1ff8], 0x2003',
    'mov dword ptr [0x2000], 0x3003; mov dword ptr [0x2ff0], 0x3003; mov dword ptr [0x3000], 0x83',
    'mov eax, cr4; or eax, 0x20; mov cr4, eax',
    'mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr',
    `lgdt [0x${(ORIGIN + TABLE_REGISTER).toString(16)}]`,
    'mov eax, cr0; or eax, 0x80000001; mov cr0, eax',
  ].join('; ');
  const code = await assemble(start, 16, ORIGIN);
  const farJump = Buffer.from([0xea, 0, 0, 0x08, 0]);
  farJump.writeUInt16LE(ORIGIN + LONG_CODE, 1);
  Buffer.concat([code, farJump]).copy(sector);
  // Segments: none, 64-bit code, data.
  sector.writeBigUInt64LE(0x00af9a000000ffffn, TABLE + 8);
  sector.writeBigUInt64LE(0x00cf92000000ffffn, TABLE + 16);
  sector.writeUInt16LE(23, TABLE_REGISTER);
  sector.writeUInt32LE(ORIGIN + TABLE, TABLE_REGISTER + 2);
  (await assemble('mov ax, 0x10; mov ss, ax; spin: pause; jmp spin', 64)).copy(sector, LONG_CODE);
  sector.writeUInt16LE(0xaa55, SIGNATURE);
  return sector;
}

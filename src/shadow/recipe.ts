import type { NativeLocation, NativeRecipe } from '../binding.js';
import { PenumbraError } from '../errors.js';
import type { Kernel } from '../kernel/kernel.js';
import { currentVariables } from '../kernel/perCpu.js';
import { stubs } from './stubs.js';

/**
 * How to build a context in a given kernel, as data for native/shadow: what to borrow, what to patch in the private
 * copy, where calls must not go. Symbols and members are probed, newest form first; the release in which a form went
 * away stands beside its fallback.
 */

const Base = { absolute: 0, perCpu: 1, task: 2 } as const;
const Source = { constant: 0, task: 1, stackTop: 2, cpu: 3, code: 4, taskField: 5 } as const;
const TrapKind = { schedule: 0, lock: 1, bug: 2, skip: 3, signal: 4, readLock: 5 } as const;

const all = 0xffffffffffffffffn;

// arch/x86/include/asm/thread_info.h: work that a task does on its way to user mode and that a shadow has no use for.
// NOTIFY_RESUME stays out of `keep` only for what the guest had pending; the calls' own task work sets it again.
const pendingWork =
  (1n << 1n) | // TIF_NOTIFY_RESUME
  (1n << 2n) | // TIF_SIGPENDING
  (1n << 3n) | // TIF_NEED_RESCHED
  (1n << 4n) | // TIF_SINGLESTEP
  (1n << 14n); // TIF_NEED_FPU_LOAD
// The same word before 5.11 also held what is syscall_work today: SYSCALL_TRACE, SYSCALL_EMU, SYSCALL_AUDIT, SECCOMP,
// SYSCALL_TRACEPOINT.
const syscallWork = (1n << 0n) | (1n << 6n) | (1n << 7n) | (1n << 8n) | (1n << 28n);

/** preempt_count of a task that may be preempted and need not be: PREEMPT_NEED_RESCHED is stored inverted. */
const preemptible = 0x80000000;

const absolute = (offset: bigint): NativeLocation => ({ base: Base.absolute, offset });
const perCpu = (offset: bigint): NativeLocation => ({ base: Base.perCpu, offset });
const inTask = (offset: number): NativeLocation => ({ base: Base.task, offset });

export interface Borrowed {
  task: bigint;
  pid: number;
}

/**
 * @throws PenumbraError NO_SYMBOL, NO_MEMBER, NO_BTF when the kernel lacks something that calls cannot do without
 */
export function contextRecipe(kernel: Kernel, perCpuBases: bigint[], borrowed: Borrowed): NativeRecipe {
  const state = kernel.offsetof('task_struct.__state'); // 5.14
  const onCpu = kernel.offsetof('task_struct.on_cpu');
  const version = codeVersion(kernel);
  const signal = signalRule(kernel);
  const pageWait = pageWaitRule(kernel);
  const counter = counterRule(kernel);
  const xcr0 = extendedFeatures(kernel);
  const mm = kernel.requireOffset('task_struct.mm');
  return {
    levels: kernel.levels,
    kernelRoot: kernel.root,
    perCpuBases,
    currentTask: currentVariables(kernel).currentTask,
    taskPid: kernel.requireOffset('task_struct.pid'),
    taskMm: mm,
    taskStack: kernel.requireOffset('task_struct.stack'),
    taskThreadSp: kernel.requireOffset('task_struct.thread.sp'),
    taskState: state ?? kernel.requireOffset('task_struct.state'),
    taskStateWidth: state === undefined ? 8 : 4,
    ...(onCpu === undefined ? {} : { taskOnCpu: onCpu }),
    taskExitState: kernel.requireOffset('task_struct.exit_state'),
    mmPgd: kernel.requireOffset('mm_struct.pgd'),
    stackSize: 16384,
    borrowedTask: borrowed.task,
    borrowedPid: borrowed.pid,
    syscallDispatch: kernel.requireSymbol('do_syscall_64'),
    registersFirst: takesRegistersFirst(kernel),
    syscallTable: kernel.symbol('sys_call_table') ?? 0n,
    syscallCount: kernel.symbol('sys_call_table') === undefined ? 0 : 512,
    idt: kernel.symbol('idt_table') ?? 0n,
    gdtPerCpu: kernel.symbol('gdt_page') ?? 0n,
    tssPerCpu: kernel.symbol('cpu_tss_rw') ?? 0n,
    textStart: kernel.requireSymbol('_stext', '_text'),
    textEnd: kernel.requireSymbol('_etext'),
    ...(version === undefined ? {} : { codeVersion: version }),
    sequences: sequences(kernel),
    ...(counter === undefined ? {} : { counter }),
    ...(xcr0 === undefined ? {} : { xcr0 }),
    lockFunctions: codeRanges(kernel, lockFunctions),
    harmlessReaders: codeRanges(kernel, harmlessReaders),
    ...(signal === undefined ? {} : { signal }),
    ...(pageWait === undefined ? {} : { pageWait }),
    code: stubs.clock.bytes,
    patches: patches(kernel),
    samples: clockSamples(kernel),
    traps: traps(kernel),
  };
}

/** do_syscall_64(regs, nr) since 5.13, (nr, regs) before. */
function takesRegistersFirst(kernel: Kernel): boolean {
  const first = kernel.parameters('do_syscall_64')?.[0];
  return first === undefined ? entryPassesRegistersFirst(kernel) : first.kind === 'pointer';
}

/**
 * Where BTF leaves the function out (5.10) the entry code tells: it passes the registers as `mov %rsp,%rdi` or as
 * `mov %rsp,%rsi`, shortly before its call (arch/x86/entry/entry_64.S).
 */
function entryPassesRegistersFirst(kernel: Kernel): boolean {
  const entry = kernel.requireSymbol('entry_SYSCALL_64');
  const target = kernel.requireSymbol('do_syscall_64');
  const code = kernel.virtual.read(entry, 512);
  for (let at = code.indexOf(0xe8); at >= 0 && at + 5 <= code.length; at = code.indexOf(0xe8, at + 1)) {
    if (entry + BigInt(at + 5 + code.readInt32LE(at + 1)) !== target) continue;
    // Between the two may stand alternatives for the speculation mitigations.
    const before = code.subarray(Math.max(0, at - 96), at);
    const first = before.lastIndexOf(Buffer.from([0x48, 0x89, 0xe7]));
    const second = before.lastIndexOf(Buffer.from([0x48, 0x89, 0xe6]));
    if (first !== second) return first > second;
  }
  throw new PenumbraError('NO_MEMBER', "neither BTF nor the entry code tells do_syscall_64's arguments");
}

/** The flush counter of the address space through which the kernel patches its own text (alternative.c, text_poke). */
function codeVersion(kernel: Kernel): NativeLocation | undefined {
  const pointer = kernel.symbol('text_poke_mm') ?? kernel.symbol('poking_mm'); // renamed in 6.16
  const generation = kernel.offsetof('mm_struct.context.tlb_gen');
  if (pointer === undefined || generation === undefined) return undefined;
  return { base: Base.absolute, offset: pointer, indirectOffset: generation };
}

function sequences(kernel: Kernel): NativeLocation[] {
  return ['tk_core', 'rename_lock', 'mount_lock', 'jiffies_seq']
    .map((name) => kernel.symbol(name))
    .filter((address) => address !== undefined)
    .map(absolute);
}

/** Where signals are delivered on the way to user mode: of this name since 5.11, without the suffix before. */
const signalDelivery = ['arch_do_signal_or_restart', 'arch_do_signal'];

/** How a sleep in a call is ended: by a SIGKILL that is pending until the call is on its way out. */
function signalRule(kernel: Kernel): NativeRecipe['signal'] {
  const pending = kernel.offsetof('task_struct.pending.signal');
  if (pending === undefined || signalDelivery.every((name) => kernel.symbol(name) === undefined)) return undefined;
  return {
    flags: kernel.requireOffset('task_struct.thread_info.flags'),
    flagsSet: 1n << 2n, // TIF_SIGPENDING
    pending,
    pendingSet: 1n << 8n, // SIGKILL
    sleepStates: 0x101, // TASK_INTERRUPTIBLE, TASK_WAKEKILL
  };
}

/** How a wait for a page that the stopped guest had locked is known and ended (mm/filemap.c). */
function pageWaitRule(kernel: Kernel): NativeRecipe['pageWait'] {
  const wakeFunction = kernel.symbol('wake_page_function');
  const member = (name: string): number | undefined => kernel.offsetof(`wait_page_queue.${name}`);
  const [fn, flags, bit] = [member('wait.func'), member('wait.flags'), member('bit_nr')];
  const page = member('folio') ?? member('page'); // 5.16
  const pageFlags = kernel.offsetof('page.flags');
  const [locked, upToDate] = [kernel.enumerator('PG_locked'), kernel.enumerator('PG_uptodate')];
  if (fn === undefined || flags === undefined || bit === undefined || page === undefined) return undefined;
  if (wakeFunction === undefined || pageFlags === undefined) return undefined;
  if (locked === undefined || upToDate === undefined) return undefined;
  return { wakeFunction, function: fn, flags, page, bit, pageFlags, locked, upToDate };
}

const lockFunctions = [
  '_raw_spin_lock',
  '_raw_spin_lock_irq',
  '_raw_spin_lock_irqsave',
  '_raw_spin_lock_bh',
  '_raw_read_lock',
  '__pte_offset_map_lock',
  'down_read',
  'down_read_killable',
  'down_read_interruptible',
];

/**
 * Readers that may pass a lock although the guest was stopped while it held it. What they read under it are pointers,
 * counters and page table entries, each of which is whole at every instant; sums have a sequence counter of their own.
 * - __lock_task_sighand: siglock, for the signal and accounting fields of one task (fs/proc/array.c)
 * - task_dump_owner: alloc_lock, for the pointer to the task's memory (fs/proc/base.c)
 * - do_task_stat: exec_update_lock, which keeps old memory from being seen with new credentials (fs/proc/array.c)
 * - do_prlimit: tasklist_lock, to keep the task there, and alloc_lock, for two numbers (kernel/sys.c)
 * - pidns_for_children_get: tasklist_lock, for whether a namespace has a first process (kernel/pid_namespace.c)
 * - follow_page_pte: a page table's lock, for one entry (mm/gup.c)
 */
const harmlessReaders = [
  '__lock_task_sighand',
  'task_dump_owner',
  'do_task_stat',
  'do_prlimit',
  'pidns_for_children_get',
  'follow_page_pte',
];

function codeRanges(kernel: Kernel, names: readonly string[]): { start: bigint; size: number }[] {
  return names.flatMap((name) => {
    const start = kernel.symbol(name);
    const size = kernel.functionSize(name);
    return start === undefined || size === undefined ? [] : [{ start, size }];
  });
}

function patches(kernel: Kernel): NativeRecipe['patches'] {
  const list: NativeRecipe['patches'] = [];
  const set = (where: NativeLocation, width: number, source: number, constant: bigint | number, keep = 0n): void => {
    list.push({ where, width, keep, source, constant });
  };
  const current = currentVariables(kernel);
  set(perCpu(current.currentTask), 8, Source.task, 0);
  set(perCpu(current.topOfStack), 8, Source.stackTop, 0);
  set(perCpu(current.preemptCount), 4, Source.constant, preemptible);
  for (const patch of floatingPoint(kernel)) list.push(patch);

  const work = kernel.offsetof('task_struct.thread_info.syscall_work'); // 5.11
  const cleared = work === undefined ? pendingWork | syscallWork : pendingWork;
  set(inTask(kernel.requireOffset('task_struct.thread_info.flags')), 8, Source.constant, 0, all & ~cleared);
  if (work !== undefined) set(inTask(work), 8, Source.constant, 0);

  // An empty path: the kernel then asks nobody to load a module (kernel/kmod.c, __request_module).
  const modprobe = kernel.symbol('modprobe_path');
  if (modprobe !== undefined) set(absolute(modprobe), 1, Source.constant, 0);

  const clock = clockReader(kernel);
  if (clock !== undefined) set(clock, 8, Source.code, stubs.clock.entry);
  return list;
}

/** The borrowed task's FPU registers count as loaded on this CPU, and SIMD as in use, so that no call touches them. */
function floatingPoint(kernel: Kernel): NativeRecipe['patches'] {
  const list: NativeRecipe['patches'] = [];
  const owner = kernel.symbol('fpu_fpregs_owner_ctx');
  const embedded = kernel.offsetof('task_struct.thread.fpu'); // a pointer to the fpu since 6.16
  const lastCpu = kernel.offsetof('fpu.last_cpu');
  if (owner !== undefined && embedded !== undefined && lastCpu !== undefined) {
    const isPointer = kernel.sizeof('task_struct.thread.fpu') === 8;
    if (isPointer) {
      const pointer = { base: Base.task, offset: embedded, indirectOffset: lastCpu };
      list.push({ where: perCpu(owner), width: 8, keep: 0n, source: Source.taskField, constant: embedded });
      list.push({ where: pointer, width: 4, keep: 0n, source: Source.cpu, constant: 0 });
    } else {
      list.push({ where: perCpu(owner), width: 8, keep: 0n, source: Source.task, constant: embedded });
      list.push({ where: inTask(embedded + lastCpu), width: 4, keep: 0n, source: Source.cpu, constant: 0 });
    }
  }
  const inUse = kernel.symbol('in_kernel_fpu');
  if (inUse !== undefined)
    list.push({ where: perCpu(inUse), width: 1, keep: 0n, source: Source.constant, constant: 1 });
  return list;
}

/** struct tk_core: a sequence counter padded to 8 bytes, then the timekeeper (kernel/time/timekeeping.c). */
const timekeeperOffset = 8n;

/** `read` of the clocksource in use: replaced by a stub that gives the guest's last reading. */
function clockReader(kernel: Kernel): NativeLocation | undefined {
  const core = kernel.symbol('tk_core');
  const clock = kernel.offsetof('timekeeper.tkr_mono.clock');
  const read = kernel.offsetof('clocksource.read');
  if (core === undefined || clock === undefined || read === undefined) return undefined;
  return { base: Base.absolute, offset: core + timekeeperOffset + BigInt(clock), indirectOffset: read };
}

function clockSamples(kernel: Kernel): NativeRecipe['samples'] {
  const core = kernel.symbol('tk_core');
  const last = kernel.offsetof('timekeeper.tkr_mono.cycle_last');
  if (core === undefined || last === undefined) return [];
  const from = absolute(core + timekeeperOffset + BigInt(last));
  return [{ from, width: 8, codeOffset: stubs.clock.data }];
}

/** How to tell the time-stamp counter of a stopped guest: from what its clocksource read last. */
function counterRule(kernel: Kernel): NativeRecipe['counter'] {
  const core = kernel.symbol('tk_core');
  const clock = kernel.offsetof('timekeeper.tkr_mono.clock');
  const last = kernel.offsetof('timekeeper.tkr_mono.cycle_last');
  if (core === undefined || clock === undefined || last === undefined) return undefined;
  const inKeeper = (member: number): NativeLocation => absolute(core + timekeeperOffset + BigInt(member));
  const pageClock = kernel.symbol('kvm_clock');
  const page = kernel.symbol('hv_clock_per_cpu');
  return {
    clock: inKeeper(clock),
    last: inKeeper(last),
    counterClocks: ['clocksource_tsc', 'clocksource_tsc_early']
      .map((name) => kernel.symbol(name))
      .filter((address) => address !== undefined),
    ...(pageClock === undefined || page === undefined ? {} : { pageClock, page: perCpu(page) }),
  };
}

// arch/x86/include/asm/fpu/types.h: the features that XCR0 switches on; the others are IA32_XSS's.
const extendedUserFeatures = 0x602ffn;

/** XCR0 as the kernel has written it (arch/x86/kernel/fpu/xstate.c). */
function extendedFeatures(kernel: Kernel): bigint | undefined {
  const config = kernel.symbol('fpu_user_cfg'); // 5.16
  const features = kernel.offsetof('fpu_state_config.max_features');
  const address =
    config !== undefined && features !== undefined ? config + BigInt(features) : kernel.symbol('xfeatures_mask_all');
  if (address === undefined) return undefined;
  return kernel.virtual.read(address, 8).readBigUInt64LE() & extendedUserFeatures;
}

function traps(kernel: Kernel): NativeRecipe['traps'] {
  const list: NativeRecipe['traps'] = [];
  const add = (kind: number, names: readonly string[], value = 0): void => {
    for (const name of names) {
      const address = kernel.symbol(name);
      if (address !== undefined && !list.some((trap) => trap.address === address)) {
        list.push({ address, kind, value, name });
      }
    }
  };
  add(TrapKind.schedule, [kernel.symbol('__schedule') === undefined ? 'schedule' : '__schedule']);
  add(TrapKind.lock, [
    'native_queued_spin_lock_slowpath',
    '__pv_queued_spin_lock_slowpath',
    'queued_spin_lock_slowpath',
    'queued_read_lock_slowpath',
    'queued_write_lock_slowpath',
    'mutex_spin_on_owner',
    'rwsem_spin_on_owner',
  ]);
  add(TrapKind.signal, signalDelivery);
  add(TrapKind.readLock, ['rwsem_down_read_slowpath']);
  add(TrapKind.bug, ['panic', 'oops_enter', 'report_bug', 'make_task_dead', 'do_exit']);
  // No other CPU runs in a shadow: nothing to flush or to call there, no grace period to wait for, nobody to wake up.
  add(TrapKind.skip, [
    'smp_call_function_many_cond',
    'smp_call_function_single',
    'schedule_on_each_cpu',
    'synchronize_rcu',
    'synchronize_rcu_expedited',
  ]);
  add(TrapKind.skip, ['try_to_wake_up'], 1);
  // Spinning in the hope that an owner on another CPU lets go: fails at once, so that the caller goes to sleep instead.
  add(TrapKind.skip, ['osq_lock'], 0);
  // The allocator shuffles its free lists; the generator's lock is often held. getrandom(2) takes another way.
  add(TrapKind.skip, ['get_random_u32', 'get_random_u64', 'get_random_long'], 0x9e3779b9);
  return list;
}

import { PenumbraError } from '../errors.js';
import type { Kernel } from './kernel.js';
import { listNodes, steadily } from './list.js';
import { stateLetter } from './taskState.js';

/** A task as its task_struct describes it, ids as the initial namespaces see them. */
export interface Task {
  /** of its task_struct, guest-virtual */
  address: bigint;
  pid: number;
  /** pid of the thread group's leader: what user space calls the process */
  tgid: number;
  /** process id of the real parent, 0 for none */
  ppid: number;
  /** up to 15 bytes */
  comm: Buffer;
  /** as /proc/PID/stat shows it: R S D T t X Z P I */
  state: string;
  /** PF_* of include/linux/sched.h */
  flags: number;
  isKernelThread: boolean;
  uid: number;
  euid: number;
  gid: number;
  egid: number;
  /** ns after boot, time suspended included */
  startTime: bigint;
  /** address of its mm_struct, 0 for a kernel thread or zombie */
  mm: bigint;
  /** lowest address of its kernel stack */
  stack: bigint;
  /** saved stack pointer; meaningful while the task does not run */
  sp: bigint;
  /** runs on a CPU at this moment */
  onCpu: boolean;
  /** the CPU it runs on or ran on last */
  cpu: number;
  cred: bigint;
}

type Credentials = Pick<Task, 'uid' | 'euid' | 'gid' | 'egid'>;

/** Tasks walked at most; a forged list must not cost minutes. */
const TASK_LIMIT = 1 << 18;
const PF_KTHREAD = 0x00200000;
const COMM_LENGTH = 16;
/** A task_struct has about 10 KB. */
const SIZE_LIMIT = 1 << 18;

/** Where the members of a task_struct lie, newest form first. Everything is asked once, so one read gives a task. */
function taskLayout(kernel: Kernel) {
  const at = (...members: string[]) => kernel.requireOffset(...members.map((m) => `task_struct.${m}`));
  // 5.14, 2f064a59a11f: __state, unsigned int; before, state, long
  const state = at('__state', 'state');
  const layout = {
    state,
    exitState: at('exit_state'),
    pid: at('pid'),
    tgid: at('tgid'),
    comm: at('comm'),
    flags: at('flags'),
    mm: at('mm'),
    stack: at('stack'),
    sp: at('thread.sp'),
    // 5.5, cf25e24db61c; before, real_start_time
    startTime: at('start_boottime', 'real_start_time'),
    realParent: at('real_parent'),
    realCred: at('real_cred'),
    signal: at('signal'),
    // without CONFIG_SMP there is no such member
    onCpu: kernel.offsetof('task_struct.on_cpu'),
    // 5.16, bcf9033e5449: thread_info.cpu; before, task_struct.cpu
    cpu: kernel.offsetof('task_struct.thread_info.cpu') ?? kernel.offsetof('task_struct.cpu'),
  };
  const offsets = Object.values(layout).filter((offset) => offset !== undefined);
  const from = Math.min(...offsets);
  const length = Math.max(...offsets) + COMM_LENGTH - from;
  if (length > SIZE_LIMIT) throw new PenumbraError('CORRUPT', `BTF: a task_struct of ${length} bytes`);
  return { ...layout, from, length };
}

/**
 * The raw walk over the task list: no code of the guest runs, and nothing that the guest's syscalls hide is hidden here.
 */
export class Tasks {
  readonly #layout: ReturnType<typeof taskLayout>;
  readonly #parents = new Map<bigint, number>();
  readonly #credentials = new Map<bigint, Credentials>();

  /** @throws PenumbraError NO_BTF, NO_MEMBER */
  constructor(private readonly kernel: Kernel) {
    this.#layout = taskLayout(kernel);
  }

  /** Thread group leaders in the order of their creation, without the idle tasks. @throws PenumbraError CORRUPT, NOT_MAPPED */
  processes(): Task[] {
    return steadily(() => {
      this.#forget();
      return Array.from(this.#leaders(), (address) => this.#read(address));
    });
  }

  /** All threads of all processes, leaders included. @throws PenumbraError CORRUPT, NOT_MAPPED */
  threads(): Task[] {
    return steadily(() => {
      this.#forget();
      const found: Task[] = [];
      for (const leader of this.#leaders()) {
        for (const thread of this.#threadsOf(leader)) {
          if (found.length === TASK_LIMIT) throw corrupt(`more than ${TASK_LIMIT} threads`, thread);
          found.push(this.#read(thread));
        }
      }
      return found;
    });
  }

  /** A task by its pid in the initial namespace, a thread's as well. @throws PenumbraError CORRUPT, NOT_MAPPED */
  find(pid: number): Task | undefined {
    return steadily(() => {
      for (const leader of this.#leaders()) {
        if (this.#number(leader, 'task_struct.pid') === pid) return this.at(leader);
      }
      return this.threads().find((task) => task.pid === pid);
    });
  }

  /** The task at an address, for instance a CPU's current one. @throws PenumbraError NOT_MAPPED */
  at(address: bigint): Task {
    this.#forget();
    return this.#read(address);
  }

  #read(address: bigint): Task {
    const { from, length, ...at } = this.#layout;
    const bytes = this.kernel.virtual.read(address + BigInt(from), length);
    const u32 = (offset: number) => bytes.readUInt32LE(offset - from);
    const u64 = (offset: number) => bytes.readBigUInt64LE(offset - from);
    const comm = bytes.subarray(at.comm - from, at.comm - from + COMM_LENGTH);
    const end = comm.indexOf(0);
    const flags = u32(at.flags);
    const cred = u64(at.realCred);
    return {
      address,
      pid: u32(at.pid),
      tgid: u32(at.tgid),
      ppid: this.#processIdOf(u64(at.realParent)),
      comm: end < 0 ? comm : comm.subarray(0, end),
      state: stateLetter(u32(at.state), u32(at.exitState)),
      flags,
      isKernelThread: (flags & PF_KTHREAD) !== 0,
      ...this.#credentialsAt(cred),
      startTime: u64(at.startTime),
      mm: u64(at.mm),
      stack: u64(at.stack),
      sp: u64(at.sp),
      onCpu: at.onCpu !== undefined && u32(at.onCpu) !== 0,
      cpu: at.cpu === undefined ? 0 : u32(at.cpu),
      cred,
    };
  }

  *#leaders(): Generator<bigint> {
    const offset = BigInt(this.kernel.requireOffset('task_struct.tasks'));
    const head = this.kernel.requireSymbol('init_task') + offset;
    for (const node of listNodes(this.kernel.virtual, head, 'the task list', TASK_LIMIT)) yield node - offset;
  }

  *#threadsOf(leader: bigint): Generator<bigint> {
    const { virtual } = this.kernel;
    const signal = virtual.read(leader + BigInt(this.#layout.signal), 8).readBigUInt64LE();
    const head = signal + BigInt(this.kernel.requireOffset('signal_struct.thread_head'));
    const offset = BigInt(this.kernel.requireOffset('task_struct.thread_node'));
    const what = `the thread list of task 0x${leader.toString(16)}`;
    for (const node of listNodes(virtual, head, what, TASK_LIMIT)) yield node - offset;
  }

  #processIdOf(task: bigint): number {
    let tgid = this.#parents.get(task);
    if (tgid === undefined) {
      tgid = this.#number(task, 'task_struct.tgid');
      this.#parents.set(task, tgid);
    }
    return tgid;
  }

  #credentialsAt(cred: bigint): Credentials {
    let ids = this.#credentials.get(cred);
    if (ids === undefined) {
      const id = (member: string) => this.#number(cred, `cred.${member}`);
      ids = { uid: id('uid'), euid: id('euid'), gid: id('gid'), egid: id('egid') };
      this.#credentials.set(cred, ids);
    }
    return ids;
  }

  #number(address: bigint, member: string): number {
    return this.kernel.virtual.read(address + BigInt(this.kernel.requireOffset(member)), 4).readUInt32LE();
  }

  /** What was read of other structures holds for one walk only. */
  #forget(): void {
    this.#parents.clear();
    this.#credentials.clear();
  }
}

function corrupt(what: string, address: bigint): PenumbraError {
  return new PenumbraError('CORRUPT', `tasks: ${what}`, { address });
}

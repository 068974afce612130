/* Lists processes inside a shadow, as one step of a batch: goes through the guest's table of process numbers and
 * gathers of each process what /proc/PID/stat and /proc/PID/cmdline are made from (fs/proc/array.c, do_task_stat).
 * Whatever has to be worked out is asked of the guest's kernel: numbers, times, names, owners; plain members are
 * read. Making the texts of stat files would be three quarters of the work, most of it writing numbers as decimals.
 *
 * The function behind /proc/PID/cmdline asks its file for the process only, through the inode (fs/proc/internal.h,
 * struct proc_inode): a file that consists of these two pointers will do, which spares looking up, opening and closing
 * one.
 *
 * The guest's structures are its own affair: what cannot be read is a fault of the guest's kernel that ends the step.
 */
#include "process_walk.h"

#include "batch_runner.h"

/* include/uapi/asm-generic/errno-base.h */
enum { ERRNO_IO = 5 };
/* The mode of a process's directory, of which alone task_dump_owner tells the owner whatever may be dumped. */
enum { DIRECTORY_MODE = 0040555 };

typedef uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

static void open_user_memory(const struct runner_state* state) {
  if (state->user_access) __asm__ volatile("stac" ::: "memory");
}

static void close_user_memory(const struct runner_state* state) {
  if (state->user_access) __asm__ volatile("clac" ::: "memory");
}

static void copy_words(volatile uint64_t* to, const volatile uint64_t* from, uint64_t size) {
  for (uint64_t i = 0; i < size / sizeof *to; i++) to[i] = from[i];
}

static uint64_t word_at(uint64_t address, int64_t offset) { return *(const uint64_t*)(address + (uint64_t)offset); }
static uint32_t half_at(uint64_t address, int64_t offset) { return *(const uint32_t*)(address + (uint64_t)offset); }

static uint64_t ask(uint64_t target, uint64_t first, uint64_t second, uint64_t third, uint64_t fourth, uint64_t fifth) {
  return ((function)target)(first, second, third, fourth, fifth);
}

static void clear_words(uint64_t* words, uint32_t size) {
  for (uint32_t i = 0; i < size / sizeof *words; i++) ((volatile uint64_t*)words)[i] = 0;
}

/* What is known of one process before it is written to user memory. */
struct found {
  struct process_record record;
  char name[PROCESS_WALK_NAME + 8] __attribute__((aligned(8)));
};

/* What functions of the kernel are given for a struct seq_file and a struct file: zeroes but for what they look at. */
struct files {
  uint64_t name[PROCESS_WALK_FILE / 8];
  uint64_t command[PROCESS_WALK_FILE / 8];
};

static void set_word(uint64_t* structure, int64_t offset, uint64_t value) {
  *(uint64_t*)((uint64_t)structure + (uint64_t)offset) = value;
}

/* A task's name is the one in its task_struct, but for workers, which tell what they work on, and for kernel threads
 * whose name does not fit in there. For the others the kernel would only take a lock to copy it. */
static void name(const struct process_walk* walk, uint64_t task, struct files* files, struct found* found) {
  const char* comm = (const char*)(task + (uint64_t)(int64_t)walk->task_comm);
  uint32_t length = 0;
  while (length < PROCESS_WALK_COMM - 1 && comm[length] != 0) {
    found->name[length] = comm[length];
    length++;
  }
  const int may_be_cut = (found->record.flags & walk->kernel_thread) != 0 && length == PROCESS_WALK_COMM - 1;
  if (may_be_cut || (found->record.flags & walk->worker) != 0) {
    set_word(files->name, walk->seq_buffer, (uint64_t)found->name);
    set_word(files->name, walk->seq_size, sizeof found->name);
    set_word(files->name, walk->seq_count, 0);
    ask(walk->proc_task_name, (uint64_t)files->name, task, 0, 0, 0);
    const uint64_t written = word_at((uint64_t)files->name, walk->seq_count);
    length = written > PROCESS_WALK_NAME ? PROCESS_WALK_NAME : (uint32_t)written;
  }
  found->record.name_length = length;
}

static uint32_t number(const struct process_walk* walk, uint64_t task, uint32_t type) {
  return (uint32_t)ask(walk->task_pid_nr_ns, task, type, walk->pid_namespace, 0, 0);
}

static void describe(const struct process_walk* walk, uint64_t task, struct files* files, struct found* found) {
  struct process_record* record = &found->record;
  record->parent = number(walk, word_at(task, walk->task_real_parent), walk->process_type);
  record->group = number(walk, task, walk->group_type);
  record->session = number(walk, task, walk->session_type);
  record->flags = half_at(task, walk->task_flags);
  record->state = half_at(task, walk->task_state);
  record->exit_state = half_at(task, walk->task_exit_state);
  record->priority = (int32_t)half_at(task, walk->task_prio);
  record->static_priority = (int32_t)half_at(task, walk->task_static_prio);
  record->cpu = half_at(task, walk->task_cpu);
  record->start_time = word_at(task, walk->task_start_time);
  const uint64_t signal = word_at(task, walk->task_signal);
  record->threads = half_at(signal, walk->signal_threads);
  const uint64_t tty = word_at(signal, walk->signal_tty);
  record->terminal = tty == 0 ? 0 : (uint32_t)ask(walk->tty_devnum, tty, 0, 0, 0, 0);
  ask(walk->group_cputime, task, (uint64_t)&record->user_time, (uint64_t)&record->system_time, 0, 0);
  record->uid = record->gid = 0;
  record->size = record->resident = 0;
  name(walk, task, files, found);
}

/* A counter that is kept for each processor as well, or was, may be less than nothing for a while. */
static uint64_t pages(uint64_t mm, int32_t counter) {
  const int64_t count = (int64_t)word_at(mm, counter);
  return count > 0 ? (uint64_t)count : 0;
}

/* Returns the bytes of the command line, written to `out`. */
static int64_t read_command(const struct process_walk* walk, uint64_t pid, struct files* files, uint64_t out) {
  set_word(files->command, walk->file_inode, (uint64_t)&pid - (uint64_t)(int64_t)walk->inode_pid);
  int64_t position = 0;
  const int64_t length =
      (int64_t)ask(walk->read_cmdline, (uint64_t)files->command, out, PROCESS_WALK_COMMAND, (uint64_t)&position, 0);
  if (length > PROCESS_WALK_COMMAND) return -ERRNO_IO;
  return length < 0 ? 0 : length;
}

/* What only processes with a memory of their own have. Returns the bytes of the command line, or a negative errno. */
static int64_t describe_user(const struct process_walk* walk, uint64_t pid, uint64_t task, struct files* files,
                             uint64_t out, struct process_record* record) {
  if ((record->flags & walk->kernel_thread) != 0) return 0;
  ask(walk->task_dump_owner, task, DIRECTORY_MODE, (uint64_t)&record->uid, (uint64_t)&record->gid, 0);
  const uint64_t mm = word_at(task, walk->task_mm);
  if (mm == 0) return 0;
  record->size = word_at(mm, walk->mm_pages);
  /* include/linux/mm.h, get_mm_rss. */
  record->resident =
      pages(mm, walk->mm_file_pages) + pages(mm, walk->mm_anonymous_pages) + pages(mm, walk->mm_shared_pages);
  return read_command(walk, pid, files, out);
}

/* One process at `out`, in user memory. Returns the bytes taken, or a negative errno. */
static int64_t record_process(const struct process_walk* walk, const struct runner_state* state, uint64_t pid,
                              uint64_t task, struct files* files, uint64_t out) {
  struct found found;
  found.record.pid = half_at(pid, walk->pid_number);
  describe(walk, task, files, &found);
  const uint64_t name = out + sizeof found.record;
  const uint64_t command = name + found.record.name_length;
  /* In whole words: what is too much lies under the command line. */
  open_user_memory(state);
  copy_words((volatile uint64_t*)name, (const volatile uint64_t*)found.name, found.record.name_length + 7);
  close_user_memory(state);
  const int64_t length = describe_user(walk, pid, task, files, command, &found.record);
  if (length < 0) return length;
  found.record.command_length = (uint32_t)length;
  open_user_memory(state);
  copy_words((volatile uint64_t*)out, (const volatile uint64_t*)&found.record, sizeof found.record);
  close_user_memory(state);
  return (int64_t)((command + (uint64_t)length - out + 7) & ~7ull);
}

static int64_t list(struct process_walk* walk, struct runner_state* state, uint64_t out, uint64_t size) {
  int64_t used = 0;
  struct files files;
  clear_words((uint64_t*)&files, sizeof files);
  while (used >= 0 && size - (uint64_t)used >= PROCESS_WALK_ROOM && !state->slept) {
    const uint64_t pid = ask(walk->find_ge_pid, (uint32_t)walk->next, walk->pid_namespace, 0, 0, 0);
    if (pid == 0) break;
    const int32_t number = (int32_t)half_at(pid, walk->pid_number);
    if (number < walk->next || number == INT32_MAX) return -ERRNO_IO;
    walk->next = number + 1;
    const uint64_t task = ask(walk->pid_task, pid, walk->process_type, 0, 0, 0);
    /* On its way in or out a process is known by one of the two: /proc names it, and has nothing to say of it. */
    if (task == 0 || ask(walk->pid_task, pid, walk->thread_type, 0, 0, 0) == 0) continue;
    /* Each process is as good as a call to whoever watches for calls that do not end. */
    state->calls++;
    const int64_t taken = record_process(walk, state, pid, task, &files, out + (uint64_t)used);
    used = taken < 0 ? taken : used + taken;
  }
  return used;
}

/* Returns the bytes of records in `out`, 0 when there are no more, or a negative errno. */
__attribute__((section(".text.entry"))) int64_t walk_processes(uint64_t told, uint64_t out, uint64_t size,
                                                               uint64_t unused1, uint64_t unused2,
                                                               uint64_t state_address) {
  struct runner_state* const state = (struct runner_state*)state_address;
  struct process_walk walk;
  (void)unused1, (void)unused2;
  open_user_memory(state);
  copy_words((volatile uint64_t*)&walk, (const volatile uint64_t*)told, sizeof walk);
  close_user_memory(state);
  const int64_t used = list(&walk, state, out, size);
  open_user_memory(state);
  ((struct process_walk*)told)->next = walk.next;
  close_user_memory(state);
  return used;
}

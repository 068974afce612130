/* Lists processes inside a shadow, as one step of a batch: goes through the guest's table of process numbers and has
 * the guest's kernel say of each process what /proc/PID/stat and /proc/PID/cmdline say. Two files that are open already
 * serve for all of them: the process that an inode of /proc is about is a pointer in it (fs/proc/internal.h, struct
 * proc_inode), which is exchanged. That spares three quarters of the work, which is looking up names, and making and
 * dropping what stands for them.
 *
 * The guest's structures are its own affair: what cannot be read is a fault of the guest's kernel that ends the step.
 */
#include "process_walk.h"

#include "batch_runner.h"

/* include/uapi/asm-generic/errno-base.h */
enum { ERRNO_IO = 5, ERRNO_INVALID = 22 };
/* include/uapi/linux/magic.h */
enum { PROC_SUPER_MAGIC = 0x9fa0 };
/* The mode of a process's directory, of which alone task_dump_owner tells the owner whatever may be dumped. */
enum { DIRECTORY_MODE = 0040555 };

typedef uint64_t (*function)(uint64_t, uint64_t, uint64_t, uint64_t);

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

/* Where an open file of /proc has the process that it is about; 0 for a file of anything else. */
static uint64_t* subject(const struct process_walk* walk, uint64_t file) {
  if (file == 0) return 0;
  const uint64_t inode = word_at(file, walk->file_inode);
  if (word_at(word_at(inode, walk->inode_superblock), walk->superblock_magic) != PROC_SUPER_MAGIC) return 0;
  return (uint64_t*)(inode + (uint64_t)(int64_t)walk->inode_pid);
}

static int64_t read_from_start(const struct process_walk* walk, uint64_t file, uint64_t to, uint64_t size) {
  int64_t position = 0;
  const int64_t length = (int64_t)((function)walk->vfs_read)(file, to, size, (uint64_t)&position);
  return length > (int64_t)size ? -ERRNO_IO : length;
}

/* One process at `record`, in user memory. Returns the bytes taken: 0 for one that is being reaped. */
static int64_t describe(const struct process_walk* walk, const struct runner_state* state, uint64_t task,
                        uint64_t stat_file, uint64_t command_file, uint64_t record) {
  const uint64_t text = record + sizeof(struct process_record);
  const int64_t stat_length = read_from_start(walk, stat_file, text, PROCESS_WALK_STAT);
  if (stat_length <= 0) return 0;
  uint32_t uid = 0, gid = 0;
  int64_t command_length = 0;
  if ((*(const uint32_t*)(task + (uint64_t)(int64_t)walk->task_flags) & walk->kernel_thread) == 0) {
    ((function)walk->task_dump_owner)(task, DIRECTORY_MODE, (uint64_t)&uid, (uint64_t)&gid);
    if (word_at(task, walk->task_memory) != 0) {
      command_length = read_from_start(walk, command_file, text + (uint64_t)stat_length, PROCESS_WALK_COMMAND);
      if (command_length < 0) command_length = 0;
    }
  }
  struct process_record* header = (struct process_record*)record;
  open_user_memory(state);
  header->stat_length = (uint32_t)stat_length;
  header->command_length = (uint32_t)command_length;
  header->uid = uid;
  header->gid = gid;
  header->reserved = 0;
  close_user_memory(state);
  return (int64_t)((sizeof *header + (uint64_t)(stat_length + command_length) + 7) & ~7ull);
}

static int64_t list(struct process_walk* walk, struct runner_state* state, uint64_t stat_file, uint64_t command_file,
                    uint64_t out, uint64_t size) {
  uint64_t* const stat_subject = subject(walk, stat_file);
  uint64_t* const command_subject = subject(walk, command_file);
  if (stat_subject == 0 || command_subject == 0) return -ERRNO_INVALID;
  const uint64_t stat_owner = *stat_subject;
  const uint64_t command_owner = *command_subject;
  int64_t used = 0;
  while (size - (uint64_t)used >= PROCESS_WALK_ROOM && !state->slept) {
    const uint64_t pid = ((function)walk->find_ge_pid)((uint32_t)walk->next, walk->pid_namespace, 0, 0);
    if (pid == 0) break;
    const int32_t number = *(const int32_t*)(pid + (uint64_t)(int64_t)walk->pid_number);
    if (number < walk->next || number == INT32_MAX) {
      used = -ERRNO_IO;
      break;
    }
    walk->next = number + 1;
    const uint64_t task = ((function)walk->pid_task)(pid, walk->process_type, 0, 0);
    if (task == 0) continue;
    /* Each process is as good as a call to whoever watches for calls that do not end. */
    state->calls++;
    *stat_subject = *command_subject = pid;
    const uint64_t record = out + (uint64_t)used;
    const int64_t taken = describe(walk, state, task, stat_file, command_file, record);
    if (taken == 0) continue;
    open_user_memory(state);
    ((struct process_record*)record)->pid = (uint32_t)number;
    close_user_memory(state);
    used += taken;
  }
  *stat_subject = stat_owner;
  *command_subject = command_owner;
  return used;
}

/* Returns the bytes of records in `out`, 0 when there are no more, or a negative errno. */
__attribute__((section(".text.entry"))) int64_t walk_processes(uint64_t told, uint64_t stat_file, uint64_t command_file,
                                                               uint64_t out, uint64_t size, uint64_t state_address) {
  struct runner_state* const state = (struct runner_state*)state_address;
  struct process_walk walk;
  open_user_memory(state);
  copy_words((volatile uint64_t*)&walk, (const volatile uint64_t*)told, sizeof walk);
  close_user_memory(state);
  const int64_t used = list(&walk, state, stat_file, command_file, out, size);
  open_user_memory(state);
  ((struct process_walk*)told)->next = walk.next;
  close_user_memory(state);
  return used;
}

/* The contract between the program that lists processes inside a shadow and whoever asks for it
 * (src/inspect/processWalk.ts). Plain C for both sides of the native code. */
#ifndef PENUMBRA_NATIVE_INSHADOW_PROCESS_WALK_H_
#define PENUMBRA_NATIVE_INSHADOW_PROCESS_WALK_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the program is told. It lies in user memory and stays there while the step is repeated: `next` is the program's
 * own note of how far it is. */
struct process_walk {
  /* Functions of the guest's kernel. */
  uint64_t find_ge_pid;     /* struct pid *(int nr, struct pid_namespace *) */
  uint64_t pid_task;        /* struct task_struct *(struct pid *, enum pid_type) */
  uint64_t task_pid_nr_ns;  /* pid_t (struct task_struct *, enum pid_type, struct pid_namespace *) */
  uint64_t group_cputime;   /* void (struct task_struct *, u64 *utime, u64 *stime) */
  uint64_t proc_task_name;  /* void (struct seq_file *, struct task_struct *, bool escape) */
  uint64_t tty_devnum;      /* dev_t (struct tty_struct *) */
  uint64_t task_dump_owner; /* void (struct task_struct *, umode_t, kuid_t *, kgid_t *) */
  uint64_t read_cmdline;    /* ssize_t (struct file *, char __user *, size_t, loff_t *), of /proc/PID/cmdline */
  uint64_t pid_namespace;   /* in which processes are looked for */
  /* Bytes from the start of the structure. */
  int32_t pid_number; /* struct pid: its number in the initial namespace */
  /* struct task_struct */
  int32_t task_flags, task_mm, task_state, task_exit_state, task_prio, task_static_prio, task_cpu, task_start_time;
  int32_t task_real_parent, task_signal, task_comm;
  int32_t signal_tty, signal_threads;                                   /* struct signal_struct */
  int32_t mm_pages, mm_file_pages, mm_anonymous_pages, mm_shared_pages; /* struct mm_struct */
  int32_t file_inode;                                                   /* struct file: f_inode */
  int32_t inode_pid; /* from an inode of /proc to the struct pid * that it is about; may be negative */
  int32_t seq_buffer, seq_size, seq_count; /* struct seq_file */
  /* enum pid_type */
  uint32_t thread_type, process_type, group_type, session_type;
  /* PF_* */
  uint32_t kernel_thread, worker;
  int32_t next; /* the lowest number not looked at yet */
};

/* For each process: this, its name, its command line, and padding up to a multiple of 8. */
struct process_record {
  uint32_t pid, parent, group, session; /* numbers in the namespace */
  uint32_t uid, gid;                    /* effective; 0 for kernel threads */
  uint32_t flags;                       /* PF_* */
  uint32_t state, exit_state;           /* as in the task_struct */
  int32_t priority, static_priority;    /* as in the task_struct */
  uint32_t threads;
  uint32_t cpu;
  uint32_t terminal;       /* dev_t inside the kernel; 0 is none */
  uint32_t name_length;    /* bytes */
  uint32_t command_length; /* bytes; 0 for kernel threads and zombies */
  uint64_t user_time;      /* ns */
  uint64_t system_time;    /* ns */
  uint64_t start_time;     /* ns after boot */
  uint64_t size, resident; /* pages; 0 for kernel threads and zombies */
};

enum {
  PROCESS_WALK_COMM = 16,              /* TASK_COMM_LEN, include/linux/sched.h */
  PROCESS_WALK_NAME = 64,              /* the kernel writes no longer one */
  PROCESS_WALK_FILE = 512,             /* a struct file and a struct seq_file have to fit in */
  PROCESS_WALK_COMMAND = 2 << 20,      /* a command line is shorter */
  PROCESS_WALK_ROOM = (2 << 20) + 1024 /* what one process may need */
};

#ifdef __cplusplus
}
#endif

#endif /* PENUMBRA_NATIVE_INSHADOW_PROCESS_WALK_H_ */

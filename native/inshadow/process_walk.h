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
  uint64_t vfs_read;        /* ssize_t (struct file *, char __user *, size_t, loff_t *) */
  uint64_t task_dump_owner; /* void (struct task_struct *, umode_t, kuid_t *, kgid_t *) */
  uint64_t pid_namespace;   /* in which processes are looked for */
  /* Bytes from the start of the structure. */
  int32_t pid_number;  /* struct pid: its number in the initial namespace */
  int32_t task_flags;  /* struct task_struct */
  int32_t task_memory; /* struct task_struct: mm */
  int32_t file_inode;  /* struct file: f_inode */
  int32_t inode_pid;   /* from an inode of /proc to the struct pid * that it is about; may be negative */
  int32_t inode_superblock;
  int32_t superblock_magic;
  uint32_t process_type;  /* PIDTYPE_TGID */
  uint32_t kernel_thread; /* PF_KTHREAD */
  int32_t next;           /* the lowest number not looked at yet */
};

/* For each process: this, what its stat file says, its command line, and padding up to a multiple of 8. */
struct process_record {
  uint32_t pid;
  uint32_t stat_length;    /* bytes */
  uint32_t command_length; /* bytes; 0 for kernel threads and zombies */
  uint32_t uid, gid;       /* effective; 0 for kernel threads */
  uint32_t reserved;
};

enum {
  PROCESS_WALK_STAT = 1024,            /* a stat file is shorter */
  PROCESS_WALK_COMMAND = 2 << 20,      /* so is a command line */
  PROCESS_WALK_ROOM = (2 << 20) + 2048 /* what one process may need */
};

#ifdef __cplusplus
}
#endif

#endif /* PENUMBRA_NATIVE_INSHADOW_PROCESS_WALK_H_ */

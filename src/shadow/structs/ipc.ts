/** System V and POSIX message passing. Kernel: uapi linux/sem.h, msg.h, mqueue.h. */
import { type AbiType, i16, i64, requireLength, struct, u16 } from './layout.js';

const sembuf = struct('sembuf', 6, { num: u16(0), op: i16(2), flg: i16(4, 'ipc') });
const mqAttr = struct('mq_attr', 64, { flags: i64(0), maxmsg: i64(8), msgsize: i64(16), curmsgs: i64(24) });

const TYPE_SIZE = 8;

/** A message type and the text after it; the length arguments of msgsnd and msgrcv count the text only. */
const msgbuf: AbiType<{ type: bigint; text: Buffer }> = {
  name: 'msgbuf',
  size: TYPE_SIZE,
  variable: true,
  naturalSize: TYPE_SIZE + 8192,
  symbols: {},
  decode(bytes) {
    requireLength('msgbuf', bytes, TYPE_SIZE);
    return { type: bytes.readBigInt64LE(0), text: Buffer.from(bytes.subarray(TYPE_SIZE)) };
  },
};

export const ipcTypes = [sembuf, mqAttr, msgbuf];

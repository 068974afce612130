import { PenumbraError } from '../errors.js';
import type { VirtualMemory } from '../target/target.js';

/** struct list_head: next, prev */
const NODE_SIZE = 16;
/** the kernel's half of the address space */
const KERNEL_HALF = 1n << 63n;

/**
 * Addresses of the nodes of a list (include/linux/list.h), without its head. Each node's prev must be the one before it,
 * so neither a loop nor a node that was freed meanwhile goes unnoticed.
 *
 * @param head address of the list_head that is not part of an entry
 * @param what names the list in errors
 * @param limit nodes, more are an error
 * @throws PenumbraError CORRUPT with the node's address
 */
export function* listNodes(memory: VirtualMemory, head: bigint, what: string, limit: number): Generator<bigint> {
  let previous = head;
  let [node] = readNode(memory, head, what);
  for (let count = 0; node !== head; count++) {
    if (count === limit) throw corrupt(what, `has more than ${limit} entries`, head);
    const [next, prev] = readNode(memory, node, what);
    if (prev !== previous) throw corrupt(what, `is broken: prev is 0x${prev.toString(16)}`, node);
    yield node;
    previous = node;
    node = next;
  }
}

function readNode(memory: VirtualMemory, node: bigint, what: string): [bigint, bigint] {
  if (node < KERNEL_HALF || node % 8n !== 0n) throw corrupt(what, 'leads out of kernel memory', node);
  const bytes = memory.tryRead(node, NODE_SIZE);
  if (bytes === undefined) throw corrupt(what, 'leads to a page that is not there', node);
  return [bytes.readBigUInt64LE(0), bytes.readBigUInt64LE(8)];
}

function corrupt(what: string, problem: string, address: bigint): PenumbraError {
  return new PenumbraError('CORRUPT', `${what} ${problem} (0x${address.toString(16)})`, { address });
}

/**
 * A walk over lists of a guest that runs may meet a change half done: it is tried again, and reported if it stays broken.
 *
 * @throws PenumbraError CORRUPT, NOT_MAPPED of the last attempt
 */
export function steadily<T>(walk: () => T): T {
  for (let attempt = 1; ; attempt++) {
    try {
      return walk();
    } catch (cause) {
      const mayBeRace = cause instanceof PenumbraError && (cause.code === 'CORRUPT' || cause.code === 'NOT_MAPPED');
      if (!mayBeRace || attempt === ATTEMPTS) throw cause;
    }
  }
}

const ATTEMPTS = 4;

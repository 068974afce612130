import { PenumbraError } from '../errors.js';
import { AT_FDCWD, O_NONBLOCK, O_RDONLY } from '../shadow/constants.js';
import { CallError } from '../shadow/failure.js';
import type { Shadow } from '../shadow/shadow.js';
import { bytesOf, StepList } from '../shadow/stepList.js';
import { Moment, type Question, type ShadowSource } from './moment.js';

/** Names of users and groups, as the guest's own files give them. */
export interface Accounts {
  users: ReadonlyMap<number, Buffer>;
  groups: ReadonlyMap<number, Buffer>;
}

const FILES = ['/etc/passwd', '/etc/group'] as const;
const LARGEST_FILE = 1 << 20;
const PIECE = 1 << 16;
const MOST_ACCOUNTS = 20_000;
const LONGEST_NAME = 64;
const COLON = 0x3a;
const LINE_FEED = 0x0a;

export const noAccounts: Accounts = { users: new Map(), groups: new Map() };

/** The guest's /etc/passwd and /etc/group. Never fails: what cannot be read or understood has no names. */
export async function readAccounts(source: ShadowSource): Promise<Accounts> {
  try {
    await using moment = new Moment(source);
    return await accountsInMoment(moment);
  } catch (error) {
    if (error instanceof PenumbraError) return noAccounts;
    throw error;
  }
}

/** The same as one question. A call that would have slept gives no names. */
export const accountsQuestion: Question<Accounts> = (list) => {
  const [users, groups] = FILES.map((path) => readFileQuestion(path)(list));
  return (results) => ({ users: parse(users?.(results)), groups: parse(groups?.(results)) });
};

/** The same within a shadow. What is not in the guest's memory has no names, and ends the shadow. */
export async function accountsInShadow(shadow: Shadow): Promise<Accounts> {
  const list = new StepList();
  const read = accountsQuestion(list);
  try {
    return read(await shadow.batch(list.steps, { mayBlock: true }));
  } catch (error) {
    if (error instanceof CallError) return noAccounts;
    throw error;
  }
}

export async function accountsInMoment(moment: Moment): Promise<Accounts> {
  const [users, groups] = await moment.askAll(FILES.map(readFileQuestion));
  return { users: parse(users), groups: parse(groups) };
}

function readFileQuestion(path: string): Question<Buffer | undefined> {
  return (list) => {
    const fd = list.open(AT_FDCWD, Buffer.from(path), O_RDONLY | O_NONBLOCK);
    const bytes = list.readAll(fd, PIECE, LARGEST_FILE);
    list.close(fd);
    return (results) => bytesOf(results, bytes);
  };
}

/** passwd(5) and group(5) both begin with name:password:number. The first line for a number counts, as in getpwuid(3). */
function parse(bytes: Buffer | PenumbraError | undefined): ReadonlyMap<number, Buffer> {
  const names = new Map<number, Buffer>();
  if (bytes === undefined || bytes instanceof PenumbraError) return names;
  for (let from = 0; from < bytes.length && names.size < MOST_ACCOUNTS; ) {
    const feed = bytes.indexOf(LINE_FEED, from);
    const to = feed < 0 ? bytes.length : feed;
    const account = parseLine(bytes.subarray(from, to));
    if (account !== undefined && !names.has(account.id)) names.set(account.id, account.name);
    from = to + 1;
  }
  return names;
}

function parseLine(line: Buffer): { name: Buffer; id: number } | undefined {
  const first = line.indexOf(COLON);
  const second = line.indexOf(COLON, first + 1);
  if (first < 1 || first > LONGEST_NAME || second < 0) return undefined;
  const number = /^\d{1,10}(?=:|$)/.exec(line.toString('latin1', second + 1, second + 12))?.[0];
  return number === undefined ? undefined : { name: Buffer.from(line.subarray(0, first)), id: Number(number) };
}

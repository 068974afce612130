/**
 * Attaches to guests and says what came of it: a line of JSON (Attempt) for each on its standard input (AttemptRequest).
 * A process of its own, because rights and preloaded libraries belong to a process; one for many attempts, because
 * in L1 it takes seconds until one is loaded.
 */
import { writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { type AttachOptions, attach, type Guest, PenumbraError, type Shadow } from '../../src/index.js';
import { chooseEngine, type EngineNeeds } from '../../src/schedule/engine.js';

/** What to attach to. */
export interface AttemptRequest {
  options: AttachOptions;
  /** only choose the engine, for no guest in particular */
  engineOnly?: boolean;
  /** variables to be set before */
  environment?: Record<string, string>;
  /** a program to be run over the guest, which is to print nothing */
  tool?: string;
  /** a file to be written in the middle of the session */
  meanwhile?: { path: string; text: string };
}

/** What came of it: an error, or of what was reached so much. */
export interface Attempt {
  code?: string;
  message?: string;
  engine?: string;
  engineReason?: string;
  /** what the guest answers to uname(2) in a short stop, and to getpid(2) in a long one */
  release?: string;
  pid?: number;
  stopWay?: string;
  stopWayReason?: string;
  /** what came of `tool`: its exit status, or an error */
  tool?: number | Attempt;
  /** after `meanwhile` */
  later?: Attempt;
}

for await (const line of createInterface({ input: process.stdin })) {
  const { environment = {}, ...request } = JSON.parse(line) as AttemptRequest;
  Object.assign(process.env, environment);
  process.stdout.write(`${JSON.stringify(await answer(request))}\n`);
}

async function answer(request: AttemptRequest): Promise<Attempt> {
  return orRefusal(request.engineOnly ? choose(request) : attempt(request));
}

async function orRefusal<Answer>(answer: Promise<Answer>): Promise<Answer | Attempt> {
  try {
    return await answer;
  } catch (error) {
    if (!(error instanceof PenumbraError)) throw error;
    return { code: error.code, message: error.message };
  }
}

/** KVM is looked at before the guest is: one that is refused needs none. */
async function choose({ options }: AttemptRequest): Promise<Attempt> {
  const { name, reason } = await chooseEngine(options.engine ?? 'auto', { instructionLimit: 0 } as EngineNeeds);
  return { engine: name, engineReason: reason };
}

async function attempt({ options, tool, meanwhile }: AttemptRequest): Promise<Attempt> {
  await using guest = await attach(options);
  const first = await look(guest);
  if (tool !== undefined) first.tool = await orRefusal(guest.run([tool], { budget: 0 }).then(({ exit }) => exit));
  if (meanwhile === undefined) return first;
  writeFileSync(meanwhile.path, meanwhile.text);
  return { ...first, later: await look(guest) };
}

async function inLongStop<Answer>(guest: Guest, ask: (shadow: Shadow) => Promise<Answer>): Promise<Answer> {
  await using shadow = await guest.shadow();
  return await ask(shadow);
}

/** In a stop of each kind. */
async function look(guest: Guest): Promise<Attempt> {
  const pid = await inLongStop(guest, (shadow) => shadow.syscall('getpid'));
  const { release } = await guest.uname();
  const { engine, engineReason, stopWay, stopWayReason } = await guest.info();
  return { release: release.toString(), pid: Number(pid), engine, engineReason, stopWay, stopWayReason };
}

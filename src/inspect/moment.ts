import { setTimeout as sleep } from 'node:timers/promises';
import type { BatchStep } from '../shadow/batch.js';
import { CallError, timeToMoveOn, worthAnotherStop } from '../shadow/failure.js';
import type { NativeStepResult } from '../shadow/nativeCall.js';
import type { Shadow } from '../shadow/shadow.js';
import { StepList } from '../shadow/stepList.js';
import { rehearseOnce } from './rehearsal.js';

/** Where shadows come from: a Guest. */
export interface ShadowSource {
  shadow(): Promise<Shadow & AsyncDisposable>;
  /** answers a question by a stop of its own, the shortest there is */
  ask<Answer>(question: Question<Answer>): Promise<Answer>;
  /** runs `job` over the running guest and drops what comes of it */
  rehearse?(job: (shadow: Shadow) => Promise<unknown>): Promise<void>;
}

/** A few steps that belong together: it adds them to a list and says how to read the answer from the results. */
export type Question<Answer> = (list: StepList) => (results: readonly NativeStepResult[]) => Answer;

/** About 2,000 calls take 20 ms; more of them at once would only make a failure costlier. */
const STEPS_AT_ONCE = 2000;
/** After so many questions that could not be answered, the others of their kind are not tried again and again. */
const PATIENCE = 3;

/**
 * One moment of a guest, in which everything is asked that belongs to one answer. A call that does not return (its data
 * is not in memory, say) ends the shadow; then the guest runs on for a moment, and the rest is asked in a later one.
 */
export class Moment implements AsyncDisposable {
  readonly #source: ShadowSource;
  #shadow: (Shadow & AsyncDisposable) | undefined;
  #unanswered = 0;
  /** Counts the shadows. File descriptors are of one shadow only. */
  generation = 0;

  constructor(source: ShadowSource) {
    this.#source = source;
  }

  /** Whether descriptors of the present generation can be used. */
  get isOpen(): boolean {
    return this.#shadow !== undefined;
  }

  /** @throws CallError when a step does not return; a new shadow is taken for the next call */
  async run(steps: readonly BatchStep[]): Promise<NativeStepResult[]> {
    if (this.#shadow === undefined) {
      await rehearseOnce(this.#source);
      this.#shadow = await this.#source.shadow();
      this.generation += 1;
    }
    try {
      return await this.#shadow.batch(steps);
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  /** One question. @throws CallError */
  async ask<Answer>(question: Question<Answer>): Promise<Answer> {
    const [answer] = await this.askAll([question]);
    if (answer instanceof CallError) throw answer;
    return answer as Answer;
  }

  /** Answers in the order of the questions; a CallError for one that cannot be answered. */
  async askAll<Answer>(questions: readonly Question<Answer>[]): Promise<(Answer | CallError)[]> {
    const answers: (Answer | CallError)[] = [];
    let atOnce = questions.length;
    for (let attempt = 0; answers.length < questions.length; ) {
      const { steps, read } = gather(questions, answers.length, atOnce);
      try {
        const results = await this.run(steps);
        answers.push(...read.map((each) => each(results)));
        atOnce = read.length * 2;
        attempt = 0;
      } catch (error) {
        if (!(error instanceof CallError)) throw error;
        // A single question is asked again only as often as it may have met the moment's bad luck.
        if (read.length > 1) atOnce = Math.ceil(read.length / 2);
        else if (this.#isHopeless(error, attempt)) {
          answers.push(error);
          attempt = 0;
          continue;
        }
        await sleep(timeToMoveOn(attempt));
        attempt += 1;
      }
    }
    return answers;
  }

  /** Lets the guest run on. What is asked next is asked in a later moment. */
  async end(): Promise<void> {
    const shadow = this.#shadow;
    this.#shadow = undefined;
    await shadow?.[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  #isHopeless(error: CallError, attempt: number): boolean {
    if (error.code === 'LOCKED' || this.#unanswered < PATIENCE) {
      if (worthAnotherStop(error, attempt)) return false;
    }
    this.#unanswered += 1;
    return true;
  }
}

/** The questions from `first` on, as many as go into one batch: at least one, at most `count`. */
function gather<Answer>(questions: readonly Question<Answer>[], first: number, count: number) {
  const list = new StepList();
  const read: ReturnType<Question<Answer>>[] = [];
  for (let at = first; at < questions.length && read.length < count && list.steps.length < STEPS_AT_ONCE; at += 1) {
    read.push((questions[at] as Question<Answer>)(list));
  }
  return { steps: list.steps, read };
}

// What the page knows of rollouts: those that stand in it, or, where a server has all of them, any that is asked for.

import { unpacked } from "./numbers.js";

/** A rollout with its numbers as arrays; `first` is the column of scores whose change is worked out. */
export function opened(rollout) {
  return { ...rollout, prompt: unpacked(rollout.prompt), answers: rollout.answers.map(openedAnswer) };
}

function openedAnswer(answer) {
  const columns = mapped(answer.columns, unpacked);
  if (columns.scores) columns.change = changes(columns.scores);
  const tops = mapped(answer.tops ?? {}, ({ each, tokens, logprobs }) => {
    return { each, tokens: unpacked(tokens), logprobs: unpacked(logprobs) };
  });
  return { ...answer, tokens: unpacked(answer.tokens), columns, numbers: mapped(answer.numbers, unpacked), tops };
}

/** By how much each token moved the score; the first has no score before it. */
export function changes(scores) {
  return Float64Array.from(scores, (score, place) => (place ? score - scores[place - 1] : NaN));
}

function mapped(object, act) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, act(value)]));
}

/** The rollouts that the page carries. */
export class Carried {
  constructor(payload) {
    this.facts = payload;
    this.pieces = new Map(Object.entries(payload.pieces).map(([token, text]) => [Number(token), text]));
    this.steps = payload.steps.map(({ step, of }) => ({ step, of }));
  }

  /** The rollouts of a step in brief. */
  async listed(step) {
    return this.#step(step).rollouts;
  }

  /** A rollout of a step whole, with the settings of its arithmetic. */
  async whole(step, row) {
    const found = this.#step(step);
    return { settings: found.settings, ...opened(found.rollouts.find((rollout) => rollout.row === row)) };
  }

  #step(step) {
    return this.facts.steps.find((each) => each.step === step);
  }
}

/** All rollouts of a run that a server follows. */
export class Served {
  constructor(payload) {
    this.facts = payload;
    this.pieces = new Map();
    this.steps = payload.steps;
  }

  async listed(step) {
    return (await asked(`inspect/${step}`)).rollouts;
  }

  async whole(step, row) {
    const { pieces, settings, rollout } = await asked(`inspect/${step}/${row}`);
    for (const [token, text] of Object.entries(pieces)) this.pieces.set(Number(token), text);
    return { settings, ...opened(rollout) };
  }
}

async function asked(path) {
  const answer = await fetch(path, { credentials: "same-origin", cache: "no-store" });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

// What is looked at: the step, the rollout, the quantity; by mouse, or by keys while the inspector has the focus.

import { briefly, howMany } from "./numbers.js";
import { element, readable } from "./text.js";

const MOVES = {
  ArrowLeft: ["token", -1],
  ArrowRight: ["token", 1],
  ArrowUp: ["rollout", -1],
  ArrowDown: ["rollout", 1],
  "[": ["step", -1],
  "]": ["step", 1],
  Home: ["token", -Infinity],
  End: ["token", Infinity],
};

/** `[what, by]` that a key press asks for: `token`, `rollout`, `step` by so many, or `quantity` at a place; or null. */
export function moveOf(event) {
  if (event.ctrlKey || event.metaKey || event.isComposing) return null;
  if (event.target.closest("select, input, summary")) return null;
  if (/^(Arrow|Home|End)/.test(event.key) && event.target.closest(".wide, .panel, .prompted")) return null; // they scroll
  if (/^[1-9]$/.test(event.key) && !event.altKey) return ["quantity", Number(event.key) - 1];
  return MOVES[event.key] && (!event.altKey || event.key.length === 1) ? MOVES[event.key] : null; // AltGr writes [ on some keyboards
}

/** A rollout in a line: `12 · settled score 1.23 · 35 tokens · best, random`. */
export function rolloutLine(rollout, method) {
  const score = { ppo: "settled score", reward: "best − worst" }[method] ?? "margin";
  const parts = [`${rollout.row + 1}`];
  if (typeof rollout.score === "number") parts.push(`${score} ${briefly(rollout.score)}`);
  parts.push(howMany(rollout.length, "token"));
  if (rollout.picked?.length) parts.push(rollout.picked.join(", "));
  return parts.join(" · ");
}

const AROUND = 150; // rollouts on each side of the shown one that the list offers: a list of ten thousand is slow
const LAST = { lowest: Infinity, highest: -Infinity }; // those without a score

/** Rollouts as kept, or by their score or length; the list itself is left as it is. */
export function ordered(listed, order) {
  const score = ({ score: value }) => value ?? LAST[order];
  const by = {
    lowest: (one, other) => score(one) - score(other),
    highest: (one, other) => score(other) - score(one),
    longest: (one, other) => other.length - one.length,
  }[order];
  return by ? [...listed].sort(by) : listed;
}

/** The choices around the rollout at a place, `[row, text]`; the outermost of those left out stands for them. */
export function rolloutChoices(listed, place, method) {
  const [start, end] = [Math.max(0, place - AROUND), Math.min(listed.length, place + AROUND + 1)];
  const choices = listed.slice(start, end).map((each) => [each.row, rolloutLine(each, method)]);
  if (start > 0) choices.unshift([listed[start - 1].row, `… ${howMany(start, "rollout")} before`]);
  if (end < listed.length) choices.push([listed[end].row, `… ${howMany(listed.length - end, "rollout")} after`]);
  return choices;
}

/** Fills a list of choices, `[value, text]` each, and keeps what was chosen. */
export function offered(select, options, value) {
  select.replaceChildren(...options.map(([each, text]) => element("option", { value: String(each) }, readable(text))));
  select.value = String(value);
}

/** A button for each quantity, with its key; `choose` is called with the one that was pressed. */
export function quantityButtons(quantities, choose) {
  return quantities.map((quantity, place) => {
    const key = element("kbd", { "aria-hidden": "true" }, String(place + 1));
    const made = element("button", { type: "button", title: quantity.about, "aria-keyshortcuts": place + 1, "data-key": quantity.key }, `${quantity.label} `, key);
    made.addEventListener("click", () => choose(place));
    return made;
  });
}

// What the colours stand for: their range in this answer, and the edges of the steps.

import { briefly } from "./numbers.js";
import { STEPS, edgeOf } from "./scale.js";
import { element } from "./text.js";

/** The legend of a quantity whose values reach `most` from the middle. */
export function legendOf(quantity, most, clipped) {
  const parts = quantity.kind === "flag" ? [swatch(0), " no ", swatch(STEPS), " yes"] : ranged(quantity, most);
  const mark = clipped ? [element("span", {}, element("span", { className: "clipped" }, "underlined"), ": clipped")] : [];
  return [element("span", { className: "range" }, ...parts), ...mark];
}

function ranged(quantity, most) {
  const middle = quantity.kind === "ratio" ? "1" : "0";
  const [low, high] = [edgeOf(-STEPS, most, quantity.kind), edgeOf(STEPS, most, quantity.kind)];
  const swatches = [];
  for (let step = -STEPS; step <= STEPS; step += 1) {
    const made = swatch(step);
    made.title = step ? `${step > 0 ? "up to" : "down to"} ${briefly(edgeOf(step, most, quantity.kind))}` : middle;
    swatches.push(made);
  }
  const ends = [element("span", {}, briefly(low)), element("span", { className: "middle" }, middle), element("span", {}, briefly(high))];
  return [element("span", { className: "swatches" }, ...swatches), element("span", { className: "ends" }, ...ends)];
}

function swatch(step) {
  return element("span", { className: "swatch", "data-step": step, "aria-hidden": "true" });
}

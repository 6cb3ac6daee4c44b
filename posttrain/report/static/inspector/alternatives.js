// What else could have stood in a token's place: the five likeliest tokens of a model, and which was taken.

import { percentage } from "./numbers.js";
import { spelling } from "./tokens.js";
import { element } from "./text.js";

const TAKEN = { actor: ["old", "policy"], reference: ["reference"] };

/** A list for each model that the file has alternatives of. */
export function alternativesOf(answer, place, pieces, method) {
  const names = { actor: method === "ppo" ? "actor" : "policy", reference: "reference" };
  return Object.entries(answer.tops).map(([model, top]) => {
    const taken = answer.tokens[place];
    const rows = [];
    for (let at = place * top.each; at < (place + 1) * top.each; at += 1) {
      rows.push({ token: top.tokens[at], logprob: top.logprobs[at] });
    }
    const column = TAKEN[model].map((name) => answer.columns[name]).find(Boolean);
    if (!rows.some(({ token }) => token === taken) && column) rows.push({ token: taken, logprob: column[place], below: true });
    return element(
      "div",
      { className: "alternatives", "data-model": model },
      element("h5", {}, names[model]),
      element("ol", {}, ...rows.map((row) => alternative(row, taken, pieces))),
    );
  });
}

function alternative({ token, logprob, below }, taken, pieces) {
  const chance = Math.exp(logprob);
  const bar = element("span", { className: "bar", "aria-hidden": "true" });
  bar.style.setProperty("--share", String(Math.min(1, chance)));
  const mark = token === taken ? [element("b", { className: "taken" }, below ? "taken, further down" : "taken")] : [];
  return element(
    "li",
    { className: token === taken ? "was-taken" : "", "data-token": token, "data-logprob": logprob },
    bar,
    element("bdi", { className: "piece" }, spelling(pieces, token)),
    element("span", { className: "chance" }, percentage(chance)),
    ...mark,
  );
}

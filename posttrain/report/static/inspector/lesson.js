// An answer as a table, as the lecture draws the KL: each token with both models' log-probs, and what it is paid.

import { briefly, exactly, percentage } from "./numbers.js";
import { named, spelling } from "./tokens.js";
import { element } from "./text.js";

// The columns of the two models, what their difference is called, and what else stands in the row.
const TABLES = {
  ppo: { policy: "old", name: "actor", difference: "kl", other: "rewards", otherName: "reward" },
  dpo: { policy: "policy", name: "policy", difference: "log_ratio" },
  "online-dpo": { policy: "policy", name: "policy", difference: "log_ratio" },
};

/** The table of an answer; null where its file has no log-probs of two models. */
export function lessonOf(rollout, answer, pieces, method) {
  const names = TABLES[method];
  const { [names?.policy]: policy, reference } = answer.columns;
  if (!policy || !reference || !answer.tokens.length) return null;
  const difference = Float64Array.from(policy, (value, place) => value - reference[place]);
  const other = names.other ? answer.columns[names.other] : undefined;
  const head = ["", "token", `p ${names.name}`, "p reference", `log p ${names.name}`, "log p reference", "difference"];
  if (other) head.push(names.otherName);
  const rows = Array.from(answer.tokens, (token, place) =>
    rowOf({ place, text: spelling(pieces, token), policy, reference, difference, other }),
  );
  const sums = [policy, reference, difference, ...(other ? [other] : [])].map((column) =>
    element("td", { className: "number" }, briefly(column.reduce((before, value) => before + value, 0))),
  );
  const foot = element("tr", {}, element("td"), element("th", { scope: "row" }, "sum"), element("td"), element("td"), ...sums);
  return element(
    "table",
    { className: "lesson" },
    element("caption", {}, captionOf(rollout, answer, other)),
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows),
    element("tfoot", {}, foot),
  );
}

function rowOf({ place, text, policy, reference, difference, other }) {
  const chances = [policy, reference].map((column) => element("td", { className: "number" }, percentage(Math.exp(column[place]))));
  const exact = [policy, reference, ...(other ? [other] : [])];
  const shown = [policy, reference, difference, ...(other ? [other] : [])].map((column) => {
    const title = exact.includes(column) ? exactly(column[place], column) : String(column[place]);
    return element("td", { className: "number", title }, briefly(column[place]));
  });
  const piece = element("th", { scope: "row" }, element("bdi", { className: "piece" }, text));
  return element("tr", { "data-place": place }, element("td", { className: "number" }, String(place + 1)), piece, ...chances, ...shown);
}

function captionOf(rollout, answer, rewards) {
  const { settings } = rollout;
  const whose = rollout.answers.length > 1 ? `${named(answer, rollout)}; ` : "";
  const difference = `${whose}difference: log p of the policy less log p of the reference, the KL of the token as the lecture has it`;
  const settled = answer.numbers.settled_score?.[0];
  if (!rewards || settled === undefined || typeof settings.beta !== "number") return `${difference}.`;
  const beta = settings.kl_in === "loss" ? 0 : settings.beta;
  const { estimator = "k1" } = settings;
  const charged = estimator === "k1" ? "that" : `its KL by ${estimator}`;
  const forms = {
    token: `reward: −β times ${charged}, with β = ${briefly(beta)}, and the score of ${briefly(settled)} on the last token`,
    sequence: `reward: the score of ${briefly(settled)} less β = ${briefly(beta)} times the mean KL, on the last token`,
    spread: `reward: −β times ${charged}, with β = ${briefly(beta)}, and an equal part of the score of ${briefly(settled)}`,
  };
  return `${difference}; ${forms[settings.form] ?? "reward: what the token is paid"}.`;
}

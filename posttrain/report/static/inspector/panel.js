// All numbers of one token, exactly as they are stored, with what else could have stood there and how they came out.

import { alternativesOf } from "./alternatives.js";
import { credited, paid } from "./credit.js";
import { exactly, howMany } from "./numbers.js";
import { because } from "./reasons.js";
import { named, spelling } from "./tokens.js";
import { element } from "./text.js";
import { advantageWritten, rewardWritten } from "./written.js";

/** The parts of the panel for a token. */
export function panelOf({ rollout, pieces, facts, at }) {
  const answer = rollout.answers[at.answer];
  if (!answer.tokens.length) return [element("p", {}, "This answer has no tokens.")];
  const spelt = (place) => spelling(pieces, answer.tokens[place]);
  const credit = credited(rollout, answer, at.place);
  const reason = because(rollout, answer, at.place, credit, spelt);
  const head = element(
    "h4",
    {},
    element("bdi", { className: "piece" }, spelt(at.place)),
    element("span", { className: "told" }, ` ${placeTold(answer, rollout, at.place)} · id ${answer.tokens[at.place]}`),
  );
  const parts = [head];
  if (reason) parts.push(element("p", { className: "reason" }, reason));
  parts.push(numbersOf(answer, at.place, facts.quantities));
  const others = alternativesOf(answer, at.place, pieces, facts.method);
  if (others.length) parts.push(element("h5", {}, "What could have stood here"), element("div", { className: "models" }, ...others));
  const { rewards, advantages } = answer.columns;
  const reward = rewards && paid(rollout, answer, at.place);
  if (reward) parts.push(...rewardWritten(reward, rewards[at.place], rewards));
  if (credit) parts.push(...advantageWritten(credit, rollout.settings, spelt, advantages));
  return parts;
}

function placeTold(answer, rollout, place) {
  const of = rollout.answers.length > 1 ? ` of ${named(answer, rollout)}` : "";
  return `token ${place + 1} of ${answer.tokens.length}${of}`;
}

/** Every number that the file has of the token, those that the page has no words for too. */
function numbersOf(answer, place, quantities) {
  const known = quantities.filter(({ key }) => answer.columns[key]);
  const others = Object.keys(answer.columns).filter((key) => !known.some((quantity) => quantity.key === key));
  const rows = [...known, ...others.map((key) => ({ key, label: key.replaceAll("_", " "), about: "", link: "" }))].map((quantity) => {
    const array = answer.columns[quantity.key];
    const about = [quantity.about, " ", element("span", { className: "link" }, quantity.link)];
    return element(
      "tr",
      { "data-quantity": quantity.key },
      element("th", { scope: "row" }, quantity.label),
      element("td", { className: "exact" }, storedAs(array[place], array, quantity)),
      element("td", { className: "about" }, ...about),
    );
  });
  return element("table", { className: "numbers" }, element("tbody", {}, ...rows));
}

function storedAs(value, array, { kind, key }) {
  if (kind === "flag") return value ? "true" : "false";
  if (key === "change" && Number.isNaN(value)) return "–";
  return exactly(value, array);
}

/** What a screen reader is told of a token that was reached. */
export function spokenOf({ rollout, pieces, at, quantity, told }) {
  const answer = rollout.answers[at.answer];
  if (!answer.tokens.length) return "";
  const value = answer.columns[quantity.key]?.[at.place];
  const number = value === undefined ? "" : `, ${quantity.label} ${told(value, quantity)}`;
  return `${spelling(pieces, answer.tokens[at.place])}, ${at.place + 1} of ${howMany(answer.tokens.length, "token")}${number}`;
}

// The prompt, dimmed, and the answers with their tokens coloured: one of them can be chosen, and is then focused.

import { briefly } from "./numbers.js";
import { reach, stepOf } from "./scale.js";
import { element, readable } from "./text.js";

/** The text of a token as it stands in a line of its own: breaks and tabs as signs. */
export function spelling(pieces, token) {
  const text = pieces.get(token) ?? `⟨${token}⟩`;
  return text === "" ? "⟨⟩" : readable(text).replaceAll("\n", "⏎").replaceAll("\t", "⇥");
}

/** The text of tokens as running text. */
export function running(pieces, tokens) {
  return readable(Array.from(tokens, (token) => pieces.get(token) ?? `⟨${token}⟩`).join(""));
}

/** The answers of a rollout as elements; `tell` is told which token the mouse is on, or null, and which was chosen. */
export function answersOf(rollout, pieces, tell) {
  return rollout.answers.map((answer, number) => {
    const list = element("div", {
      className: "tokens",
      role: "listbox",
      dir: "auto",
      "aria-orientation": "horizontal",
      "aria-label": `Tokens of ${named(answer, rollout)}`,
    });
    list.append(...Array.from(answer.tokens, (token, place) => tokenElement(pieces, token, number, place)));
    list.addEventListener("pointerover", ({ target }) => target.dataset.place && tell.hovered(placeOf(target)));
    list.addEventListener("pointerleave", () => tell.hovered(null));
    list.addEventListener("click", ({ target }) => target.dataset.place && tell.chosen(placeOf(target)));
    list.addEventListener("focusin", ({ target }) => target.dataset.place && tell.chosen(placeOf(target)));
    return element("article", { className: "response" }, element("h4", {}, ...headline(answer, rollout)), list);
  });
}

function tokenElement(pieces, token, number, place) {
  const text = pieces.get(token) ?? `⟨${token}⟩`;
  const made = element("span", { className: "token", role: "option", tabIndex: -1, "data-answer": number, "data-place": place });
  const shown = text === "" ? "⟨⟩" : readable(text).replace(/\n/g, "⏎\n");
  made.append(shown);
  if (/^\s*$/.test(text)) made.classList.add("blank");
  return made;
}

function placeOf(target) {
  return { answer: Number(target.dataset.answer), place: Number(target.dataset.place) };
}

/** What an answer is called: `chosen`, `rank 2`, `answer`. */
export function named(answer, rollout) {
  if (answer.role) return answer.role;
  if (answer.rank !== undefined) return answer.rank === null ? "not ranked" : `rank ${answer.rank}`;
  return rollout.answers.length > 1 ? `answer ${rollout.answers.indexOf(answer) + 1}` : "answer";
}

function headline(answer, rollout) {
  const told = Object.entries(answer.numbers).map(([name, [value]]) => `${name.replaceAll("_", " ")} ${briefly(value)}`);
  const ends = answer.stopped === undefined ? [] : [answer.stopped ? "ended by itself" : "cut at the length limit"];
  return [element("b", {}, named(answer, rollout)), " ", element("span", { className: "told" }, [...told, ...ends].join(" · "))];
}

/** Colours the tokens by a quantity, writes its value beside each for those who ask, and gives the range of colours. */
export function coloured(lists, rollout, quantity) {
  const columns = rollout.answers.map((answer) => answer.columns[quantity.key] ?? []);
  const most = reach(columns.flatMap((column) => [...column]), quantity.kind);
  lists.forEach((list, number) => {
    const clipped = rollout.answers[number].columns.clipped;
    [...list.children].forEach((token, place) => {
      const value = columns[number][place];
      const step = value === undefined ? null : stepOf(value, most, quantity.kind);
      token.dataset.step = step === null ? "none" : String(step);
      token.dataset.value = value === undefined ? "" : told(value, quantity);
      token.classList.toggle("clipped", Boolean(clipped?.[place]));
      const also = clipped?.[place] && quantity.key !== "clipped" ? ", clipped" : "";
      token.setAttribute("aria-label", `${token.textContent}: ${quantity.label} ${token.dataset.value}${also}`);
    });
  });
  return most;
}

/** A value in few characters. */
export function told(value, quantity) {
  if (quantity.kind === "flag") return value ? "yes" : "no";
  return Number.isNaN(value) ? "–" : briefly(value);
}

// An answer as a card: its letter, what is said of it, its text, and buttons for those who use no keys.

import { element, shown } from "./text.js";

const SMALL = { type: "button", className: "small", tabIndex: -1 };

/** The card of one answer. Its buttons carry what they do in `data-do`. */
export function cardOf(answer) {
  const name = answer.key.toUpperCase();
  const id = `answer-${answer.key}`;
  const button = (what, sign, words) =>
    element("button", { ...SMALL, "data-do": what, "aria-label": words, title: words }, sign);
  const head = element(
    "header",
    { "data-grip": "" },
    element("span", { className: "grip", "aria-hidden": "true" }),
    element("button", { type: "button", className: "letter", "data-do": "rank", tabIndex: -1 }, name),
    element("span", { className: "tags" }),
    element(
      "span",
      { className: "moves" },
      button("tie", "=", `Tie answer ${name} with the last one that is ranked`),
      button("better", "↑", `Move answer ${name} up`),
      button("worse", "↓", `Move answer ${name} down`),
      button("remove", "✕", `Take answer ${name} out of the order`),
      button("unfold", "⤢", `Show all of answer ${name}`),
    ),
  );
  const text = element("div", { className: "text", id, tabIndex: -1 }, ...shown(answer.text));
  text.addEventListener("scroll", () => markEnd(text), { passive: true });
  return element("article", { className: "card", "data-key": answer.key, tabIndex: -1, "aria-describedby": id }, head, text);
}

/** Says on the card where its answer stands and what is said of it. */
export function describe(card, answer, { tier, tiers, active, flags }) {
  const name = answer.key.toUpperCase();
  const ranked = tier >= 0;
  const others = ranked ? tiers[tier].filter((key) => key !== answer.key) : [];
  const place = ranked ? `place ${tier + 1} of ${tiers.length}` : "not ranked";
  const tied = others.length ? `, tied with ${spoken(others)}` : "";
  const flagged = flags.length ? `, flagged ${flags.join(" and ")}` : "";
  const cut = answer.stopped === false ? ", cut off at the length limit" : "";
  card.setAttribute("aria-label", `Answer ${name}, ${place}${tied}${flagged}${cut}`);
  card.classList.toggle("active", active);
  card.tabIndex = active ? 0 : -1;
  for (const button of card.querySelectorAll("button")) button.tabIndex = active ? 0 : -1;
  const letter = card.querySelector(".letter");
  letter.setAttribute("aria-label", ranked ? `Rank answer ${name} last` : `Rank answer ${name} next`);
  letter.setAttribute("aria-keyshortcuts", answer.key);
  const offered = { tie: !ranked && tiers.length > 0, better: ranked, worse: ranked, remove: ranked };
  for (const [what, on] of Object.entries(offered)) card.querySelector(`[data-do="${what}"]`).hidden = !on;
  card.querySelector(".tags").replaceChildren(
    ...(answer.stopped === false ? [element("span", { className: "tag cut" }, "cut off")] : []),
    ...flags.map((flag) => element("span", { className: "tag flag" }, flag)),
  );
}

/** Offers to show all of a text that does not fit its card. */
export function offerUnfolding(card) {
  const text = card.querySelector(".text");
  const open = card.classList.contains("unfolded");
  const button = card.querySelector('[data-do="unfold"]');
  const long = open || text.scrollHeight > text.clientHeight + 2;
  button.hidden = !long;
  text.classList.toggle("long", long && !open);
  markEnd(text);
  const name = card.dataset.key.toUpperCase();
  const words = open ? `Show less of answer ${name}` : `Show all of answer ${name}`;
  button.setAttribute("aria-label", words);
  button.setAttribute("aria-expanded", String(open));
  button.title = words;
}

// What is hidden below fades out, until there is nothing more.
function markEnd(text) {
  text.classList.toggle("ended", text.scrollTop + text.clientHeight > text.scrollHeight - 8);
}

/** Letters as a person says them: "A", "A and C", "A, B and C". */
export function spoken(keys) {
  const names = keys.map((key) => key.toUpperCase());
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** A whole order in words: "B, then A and D; C is not ranked". */
export function inWords(tiers, rest) {
  const order = tiers.map(spoken).join(", then ");
  return rest.length ? `${order}; ${spoken(rest)} ${rest.length > 1 ? "are" : "is"} not ranked` : order;
}

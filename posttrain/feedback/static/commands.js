// What each command does to the page, be it asked for by a key or a button.

import { spoken } from "./cards.js";
import { openGuidelines, openHelp, openNote } from "./dialogs.js";
import { announce } from "./notices.js";
import { append, dropLast, remove, step, tieNext, tierOf } from "./order.js";
import { leave } from "./server.js";
import { FLAGS } from "./work.js";

const ALWAYS = {
  help: (page) => openHelp(page.keys),
  guidelines: () => openGuidelines(),
  undo: (page) => page.undo(),
  leave: () => leave(),
};
const OPEN = {
  rank: (page, { key }) => page.reorder(key, (order) => append(order, key)),
  tie,
  back,
  remove: (page, { key }) => page.reorder(key, (order) => remove(order, key)),
  better: (page, { key }) => page.reorder(key, (order) => step(order, key, -1)),
  worse: (page, { key }) => page.reorder(key, (order) => step(order, key, 1)),
  toggle: (page, { key }) => page.reorder(key, (order) => (tierOf(order, key) < 0 ? append(order, key) : remove(order, key))),
  next: (page, { key }) => walk(page, key, (place) => place + 1),
  previous: (page, { key }) => walk(page, key, (place) => place - 1),
  first: (page, { key }) => walk(page, key, () => 0),
  last: (page, { key }) => walk(page, key, (_, count) => count - 1),
  pageUp: (page, { key }) => page.board.page(key, -1),
  pageDown: (page, { key }) => page.board.page(key, 1),
  unfold: (page, { key }) => page.board.unfold(key),
  flag,
  note: (page) => openNote(page.work.note),
  context: (page) => page.prompt.toggle(),
  submit: (page) => page.decide("rank"),
  skip: (page) => page.decide("skip"),
  cant_judge: (page) => page.decide("cant_judge"),
};

/** Does a command; what needs an item does nothing while there is none, or while one is on its way. */
export function perform(page, asked) {
  if (page.source.without?.includes(asked.command)) return;
  if (asked.command === "undo" && page.busy && !page.stalled) return;
  if (ALWAYS[asked.command]) ALWAYS[asked.command](page, asked);
  else if (OPEN[asked.command] && page.work && !page.busy) OPEN[asked.command](page, asked);
}

function tie(page, { key }) {
  if (!page.work.order.tiers.length) {
    announce("Nothing is ranked yet that the next one could tie with.", { seen: true });
    return;
  }
  if (key) {
    // From a card's own button the answer itself ties with the last one.
    page.reorder(key, (order) => append({ ...order, tie: true }, key));
    return;
  }
  if (!page.work.change(tieNext(page.work.order))) return;
  page.draw();
  const last = spoken(page.work.order.tiers.at(-1));
  announce(page.work.order.tie ? `The next one ties with ${last}.` : "The next one ties with none.");
}

// After a reload there are no steps to go back by: then the last answer leaves the order.
function back(page) {
  const { work } = page;
  if (!work.back() && !work.change(dropLast(work.order))) return;
  page.board.choose(null);
  page.draw();
  announce(`Taken back. ${work.order.tiers.length ? page.inWords() : "Nothing is ranked"}.`);
}

function walk(page, from, to) {
  const keys = page.board.inOrder();
  const place = Math.max(0, Math.min(keys.length - 1, to(keys.indexOf(from), keys.length)));
  page.board.choose(keys[place]);
  page.draw();
  page.board.choose(keys[place], { focus: true });
}

function flag(page, { flag: number }) {
  const { board, work } = page;
  if (!board.active) {
    announce("Choose an answer first: rank it, tap it, or go to it with the tab key.", { seen: true });
    return;
  }
  const set = work.toggle(board.active, FLAGS[number]);
  page.draw();
  announce(`Answer ${board.active.toUpperCase()} is ${set ? "" : "no longer "}flagged as ${FLAGS[number]}.`);
}

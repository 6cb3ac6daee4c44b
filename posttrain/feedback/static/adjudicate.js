// Disputed items: how people ranked them, and an order that settles each.

import { inWords } from "./cards.js";
import { orderOf, unranked } from "./order.js";
import { Ranker } from "./ranker.js";
import { element, readable } from "./text.js";

const find = (selector) => document.querySelector(selector);
let asked = new URLSearchParams(location.search).get("item"); // the item that the address names
let settled = 0; // how many this page settled: an undo takes back no ranking of the other page

const source = {
  drafts: "/adjudicates",
  get without() {
    return ["skip", "cant_judge", "flag", "note", ...(settled ? [] : ["undo"])];
  },
  path(reopened) {
    const item = reopened?.item ?? asked;
    return item === null ? "/api/disputed" : `/api/disputed?item=${encodeURIComponent(item)}`;
  },
  events(work) {
    settled += 1;
    asked = null; // what comes next is an item that nobody settled
    history.replaceState(null, "", location.pathname);
    return [{ item: work.item.id, kind: "rank", tiers: work.order.tiers, adjudicates: true }];
  },
  shown({ disputed, item }) {
    list(disputed, item);
    opinions(item);
  },
  nothing: ({ disputed }) =>
    disputed.length
      ? { title: "All settled", words: "Each disputed item has an order that counts.", again: false }
      : { title: "Nothing is disputed", words: "No two people ordered two answers in opposite ways.", again: false },
};

/** Every disputed item, the settled ones too, each a link to itself. */
function list(disputed, open) {
  find("#left-to-settle").textContent = `${disputed.filter((each) => !each.adjudicated).length} of ${disputed.length}`;
  find("#disputed").replaceChildren(...disputed.map((each) => entry(each, each.id === open?.id)));
}

function entry({ id, prompt, annotators, pairs, adjudicated }, here) {
  const link = { href: `/adjudicate?item=${encodeURIComponent(id)}`, "aria-current": here ? "page" : null, dir: "auto" };
  const about = `${annotators.join(", ")} · ${pairs} ${pairs === 1 ? "pair" : "pairs"} in opposite order`;
  const by = adjudicated ? [element("span", { className: "tag" }, `settled by ${adjudicated}`)] : [];
  return element("li", {}, element("a", link, readable(prompt)), element("p", { className: "hint" }, about, " ", ...by));
}

/** How each person ranked the answers, in the letters of the page. */
function opinions(item) {
  const keys = item?.answers.map(({ key }) => key) ?? [];
  const line = ({ annotator, tiers }, words) => {
    const said = inWords(tiers, unranked(orderOf(keys, tiers)));
    return element("div", {}, element("dt", {}, annotator + words), element("dd", {}, said));
  };
  const people = (item?.rankings ?? []).map((ranking) => line(ranking, ""));
  find("#opinions").replaceChildren(...people, ...(item?.adjudicated ? [line(item.adjudicated, " (settled it)")] : []));
}

new Ranker(source).start();

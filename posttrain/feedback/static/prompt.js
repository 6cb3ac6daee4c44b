// What the answers are answers to: a conversation, its middle folded away while it is long.

import { element, shown } from "./text.js";

const SEEN = 3; // messages that are shown of a long conversation: the first and the last two
const MANY = 4; // messages from which on the middle folds

/** Shows the conversation in `root`; `fold` is the button that opens and closes it, hidden where nothing is folded. */
export class Prompt {
  constructor(root, fold) {
    this.root = root;
    this.fold = fold;
    this.open = false;
    this.messages = [];
    // A message that does not fit scrolls, and then the tab key has to get there.
    this.sized = new ResizeObserver((entries) => entries.forEach(({ target }) => reachable(target)));
  }

  show(messages) {
    this.messages = messages;
    this.open = false;
    this.#draw();
  }

  toggle() {
    if (this.fold.hidden) return;
    this.open = !this.open;
    this.#draw();
  }

  #draw() {
    const { messages, open } = this;
    const folded = messages.length >= MANY && !open;
    const hidden = messages.length - SEEN;
    const middle = element("p", { className: "folded" }, `… ${hidden} message${hidden > 1 ? "s" : ""} folded …`);
    const all = messages.map(messageOf);
    this.sized.disconnect();
    this.root.replaceChildren(...(folded ? [all[0], middle, ...all.slice(1 - SEEN)] : all));
    for (const text of this.root.querySelectorAll(".text")) this.sized.observe(text);
    const long = messages.length >= MANY;
    this.fold.hidden = !long && !this.#cut();
    this.fold.textContent = open ? "fold" : "show all";
    this.fold.setAttribute("aria-expanded", String(open));
    this.root.classList.toggle("open", open);
  }

  #cut() {
    return this.open || [...this.root.querySelectorAll(".text")].some((text) => text.scrollHeight > text.clientHeight + 2);
  }
}

function messageOf({ role, content }) {
  const text = element("div", { className: "text" }, ...shown(content));
  return element("div", { className: `message ${/^[a-z]+$/.test(role) ? role : "other"}` }, element("h3", {}, role), text);
}

function reachable(text) {
  const long = text.scrollHeight > text.clientHeight + 2;
  text.tabIndex = long ? 0 : -1;
  if (long) {
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", "A long message");
  }
}

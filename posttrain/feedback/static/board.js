// The two halves of the page: tiers from best to worst, and the answers that no tier has yet.

import { cardOf, describe, offerUnfolding } from "./cards.js";
import { tierOf, unranked } from "./order.js";
import { element } from "./text.js";

const GLIDE = { duration: 160, easing: "ease-out" };

export class Board {
  constructor(root) {
    this.root = root;
    this.ranked = root.querySelector("#ranked");
    this.unranked = root.querySelector("#unranked");
    this.list = root.querySelector("#tiers");
    this.rest = root.querySelector("#rest");
    this.cards = new Map();
    this.answers = [];
    this.active = null;
    // A text that fits may not do so any more in another width.
    new ResizeObserver(() => requestAnimationFrame(() => this.#measure())).observe(root);
  }

  /** Shows the answers of another item, none of them chosen. */
  open(answers) {
    this.answers = answers;
    this.cards = new Map(answers.map((answer) => [answer.key, cardOf(answer)]));
    this.active = null;
    this.list.replaceChildren();
    this.rest.replaceChildren();
  }

  /** Shows an order. Cards that stay keep their place in their text, the focus and, where motion is welcome, glide. */
  show(order, flags) {
    const before = new Map([...this.cards].map(([key, card]) => [key, card.isConnected ? card.getBoundingClientRect() : null]));
    const scrolled = new Map([...this.cards].map(([key, card]) => [key, card.querySelector(".text").scrollTop]));
    const focused = this.root.contains(document.activeElement) ? document.activeElement : null;
    const tiers = order.tiers.map((tier, index) => this.#tier(tier, index, order));
    this.list.replaceChildren(...tiers);
    const rest = unranked(order);
    this.rest.replaceChildren(...rest.map((key) => this.cards.get(key)));
    this.#describe(order, flags, rest);
    this.#measure();
    for (const [key, top] of scrolled) this.cards.get(key).querySelector(".text").scrollTop = top;
    if (focused && !focused.hidden) focused.focus({ preventScroll: true });
    else if (focused) focused.closest("[data-key]")?.focus({ preventScroll: true });
    this.#glide(before);
  }

  #tier(keys, index, order) {
    const pending = order.tie && index === order.tiers.length - 1;
    const ties = pending ? [element("p", { className: "pending" }, "= the next one ties with this")] : [];
    const tie = keys.length > 1 ? [element("br"), "="] : [];
    const place = element("span", { className: "place", "aria-hidden": "true" }, String(index + 1), ...tie);
    const cards = element("div", { className: "tied" }, ...keys.map((key) => this.cards.get(key)), ...ties);
    return element("li", { className: keys.length > 1 ? "tier several" : "tier", "data-tier": index }, place, cards);
  }

  #describe(order, flags, rest) {
    const { tiers } = order;
    this.root.classList.toggle("begun", tiers.length > 0);
    this.root.classList.toggle("finished", rest.length === 0);
    this.root.querySelector("#left").textContent = rest.length ? `(${rest.length})` : "";
    const first = this.active ?? rest[0] ?? tiers[0]?.[0];
    for (const answer of this.answers) {
      const card = this.cards.get(answer.key);
      const tier = tierOf(order, answer.key);
      describe(card, answer, { tier, tiers, active: answer.key === this.active, flags: flags.get(answer.key) ?? [] });
      if (answer.key === first) card.tabIndex = 0; // the one door of the tab key
    }
  }

  /** Makes an answer the one that flags and arrow keys are about. */
  choose(key, { focus = false } = {}) {
    this.active = key;
    if (focus && key) this.cards.get(key)?.focus();
  }

  /** The keys in the order in which they stand on the page. */
  inOrder() {
    return [...this.root.querySelectorAll("[data-key]")].map((card) => card.dataset.key);
  }

  /** The key of the card that holds the focus, or null. */
  focused() {
    return document.activeElement?.closest?.("[data-key]")?.dataset.key ?? null;
  }

  /** Scrolls the text of a card by most of what it shows. */
  page(key, direction) {
    const text = this.cards.get(key).querySelector(".text");
    text.scrollBy({ top: direction * text.clientHeight * 0.85 });
  }

  unfold(key) {
    this.cards.get(key).classList.toggle("unfolded");
    this.#measure();
  }

  /** Marks where an answer would land: a tier, a gap, `null` for not ranked, undefined for nowhere. */
  mark(target) {
    this.unranked.classList.toggle("target", target === null);
    const tiers = [...this.list.children];
    const gap = target && "gap" in target ? target.gap : -1;
    for (const [index, tier] of tiers.entries()) {
      tier.classList.toggle("target", target?.tier === index);
      tier.classList.toggle("gap-before", gap === index);
      tier.classList.toggle("gap-after", gap === tiers.length && index === tiers.length - 1);
    }
    this.ranked.classList.toggle("target", gap === 0 && tiers.length === 0);
  }

  #measure() {
    for (const card of this.cards.values()) if (card.isConnected) offerUnfolding(card);
  }

  #glide(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const [key, card] of this.cards) {
      const from = before.get(key);
      if (!from) continue;
      const to = card.getBoundingClientRect();
      const [x, y] = [from.left - to.left, from.top - to.top];
      if (x || y) card.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], GLIDE);
    }
  }
}

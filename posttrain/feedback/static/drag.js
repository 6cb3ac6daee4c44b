// Answers moved by a pointer, be it a mouse, a pen or a finger: onto a tier ties, between tiers makes a new one.

import { element } from "./text.js";

const FAR = 5; // pixels after which a press is a drag
const EDGE = 70; // pixels from the top and bottom of the window where it scrolls
const SPEED = 14; // pixels a frame, at the edge itself

/** Where an answer would land at `y`: `{tier}`, or `{gap}` above or below tiers. The outer quarters of a tier are gaps. */
export function landing(tiers, y) {
  for (const [index, { top, bottom }] of tiers.entries()) {
    const margin = Math.min(28, (bottom - top) / 4);
    if (y < top + margin) return { gap: index };
    if (y <= bottom - margin) return { tier: index };
  }
  return { gap: tiers.length };
}

export class Drag {
  /** `board`: `ranked` and `unranked` elements; `over(target)` while dragged, `dropped(key, target)` at the end. */
  constructor(board, { over, dropped, began }) {
    Object.assign(this, { board, over, dropped, began, held: null });
    board.root.addEventListener("pointerdown", (event) => this.#press(event));
  }

  #press(event) {
    const handle = event.target.closest("[data-grip]");
    if (!handle || event.button !== 0 || event.target.closest(".moves") || this.held) return;
    const card = handle.closest("[data-key]");
    const stop = new AbortController();
    const { signal } = stop;
    const [x, y] = [event.clientX, event.clientY];
    this.held = { card, handle, pointer: event.pointerId, x, y, ghost: null, target: undefined, stop };
    addEventListener("pointermove", (move) => this.#move(move), { signal, passive: false });
    addEventListener("pointerup", (up) => this.#release(up), { signal });
    addEventListener("pointercancel", () => this.#end(), { signal });
    addEventListener("blur", () => this.#end(), { signal });
    addEventListener("keydown", (key) => this.#key(key), { signal, capture: true });
    addEventListener("scroll", () => this.#aim(), { signal, passive: true, capture: true });
  }

  #move(event) {
    const held = this.held;
    if (event.pointerId !== held.pointer) return;
    const far = Math.hypot(event.clientX - held.x, event.clientY - held.y) > FAR;
    if (!held.ghost && !far) return;
    event.preventDefault();
    if (!held.ghost) this.#lift();
    held.x = event.clientX;
    held.y = event.clientY;
    held.ghost.style.transform = `translate(${held.x + 8}px, ${held.y - 18}px)`;
    this.#aim();
  }

  #lift() {
    const { held } = this;
    held.ghost = held.handle.cloneNode(true);
    const excerpt = held.card.querySelector(".text").textContent.slice(0, 80);
    held.ghost.append(element("span", { className: "excerpt", dir: "auto" }, excerpt));
    held.ghost.classList.add("ghost");
    held.ghost.inert = true;
    held.ghost.style.width = `${Math.min(held.card.clientWidth, 360)}px`;
    document.body.append(held.ghost);
    held.card.classList.add("lifted");
    document.documentElement.classList.add("dragging");
    getSelection()?.removeAllRanges();
    this.began(held.card.dataset.key);
    held.scrolling = requestAnimationFrame(() => this.#scroll());
  }

  #aim() {
    const { held } = this;
    if (!held?.ghost) return;
    held.target = this.#under(held.x, held.y);
    this.over(held.target);
  }

  #under(x, y) {
    const inside = (element) => {
      const box = element.getBoundingClientRect();
      return x >= box.left && x <= box.right && y >= box.top && y <= box.bottom;
    };
    if (inside(this.board.unranked)) return null;
    if (!inside(this.board.ranked)) return undefined;
    const tiers = [...this.board.ranked.querySelectorAll("[data-tier]")];
    return landing(tiers.map((tier) => tier.getBoundingClientRect()), y);
  }

  #scroll() {
    const { held } = this;
    if (!held?.ghost) return;
    const { ranked } = this.board;
    const box = ranked.getBoundingClientRect();
    const inside = ranked.scrollHeight > ranked.clientHeight && held.x < box.right && held.x > box.left;
    const [top, bottom] = inside ? [box.top, Math.min(box.bottom, innerHeight)] : [0, innerHeight];
    const above = Math.min(EDGE, top + EDGE - held.y);
    const below = Math.min(EDGE, held.y - (bottom - EDGE));
    const by = above > 0 ? -above : Math.max(0, below);
    if (by) (inside ? ranked : window).scrollBy(0, (by / EDGE) * SPEED);
    held.scrolling = requestAnimationFrame(() => this.#scroll());
  }

  #key(event) {
    if (!this.held?.ghost) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "Escape") this.#end();
  }

  #release(event) {
    if (event.pointerId !== this.held.pointer) return;
    const { card, ghost, target } = this.held;
    this.#end();
    if (ghost && target !== undefined) this.dropped(card.dataset.key, target);
  }

  #end() {
    const { held } = this;
    if (!held) return;
    this.held = null;
    held.stop.abort();
    cancelAnimationFrame(held.scrolling);
    held.ghost?.remove();
    held.card.classList.remove("lifted");
    document.documentElement.classList.remove("dragging");
    this.over(undefined);
  }
}

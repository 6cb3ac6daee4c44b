// What both pages with a board do: bring an item, let a person order its answers, and hand on what they decided.

import { Board } from "./board.js";
import { inWords } from "./cards.js";
import { perform } from "./commands.js";
import { bindDialogs, singleKeys } from "./dialogs.js";
import { Drafts } from "./drafts.js";
import { Drag } from "./drag.js";
import { Kept } from "./kept.js";
import { commandOf, taken } from "./keys.js";
import { announce, banner } from "./notices.js";
import { place, tierOf, unranked } from "./order.js";
import { Outbox } from "./outbox.js";
import { Presence } from "./presence.js";
import { Prompt } from "./prompt.js";
import { get, passing, plainly, post, strangers, told } from "./server.js";
import { reportRefusals, reportWay, showProgress } from "./standing.js";
import { FLAGS, Work } from "./work.js";

const AGAIN = 5_000; // milliseconds until the server is asked again
const DECISIONS = ["rank", "skip", "cant_judge"];
const find = (selector) => document.querySelector(selector);
const show = (selector, words) => {
  const place = find(selector);
  if (place) place.textContent = words;
};

/**
 * A page at work. Its `source` says where items come from: `path(reopened)` to ask for one, the `events(work, kind)` that
 * a decision becomes, `nothing(body)` for what to say when there is no item, and, where the page has more to show or can
 * do less, `shown(body)` and the commands that it is `without`. `drafts` keeps its drafts apart from those of others.
 */
export class Ranker {
  constructor(source) {
    // Another store may be served under this address tomorrow: what is kept here goes to the one it was made for.
    const whose = `${told("store")}/${encodeURIComponent(told("name"))}`;
    this.source = source;
    this.kept = new Kept(() => localStorage);
    this.drafts = new Drafts(this.kept, whose + source.drafts);
    this.outbox = new Outbox({
      kept: this.kept,
      whose,
      changed: () => this.#report(),
      acknowledged: (entry, body) => this.#acknowledged(entry, body),
      refuses: (entry, answer) => this.#refuses(entry, answer),
    });
    this.board = new Board(find("#board"));
    this.prompt = new Prompt(find("#prompt"), find("#fold"));
    this.presence = new Presence({ second: () => this.#second(), renew: () => this.#renew() });
    this.work = null;
    this.busy = true; // an item is on its way: nothing can be done to it
    this.stalled = false; // what was decided could not be sent yet
    this.reopened = null; // the item whose decision was undone, and which kind of decision
    this.lastKey = null; // of the newest decision of this page
    this.last = null; // the number of the newest thing that the server has of this person
    this.#bind();
  }

  get keys() {
    return this.work?.order.keys ?? [];
  }

  async start() {
    this.#report();
    await this.#goOn();
  }

  /** Brings the next item, or the one that was taken back. */
  async next() {
    clearTimeout(this.timer);
    const { reopened } = this;
    const answer = await get(this.source.path(reopened));
    if (answer.status !== 200) {
      this.#unanswered(answer);
      return;
    }
    banner("next", null);
    this.reopened = null;
    this.#progress(answer.body.progress);
    if (answer.body.item) this.#open(answer.body, reopened?.kind ?? null);
    else this.#nothing(answer.body);
    this.source.shown?.(answer.body);
  }

  #open({ item, lock }, again) {
    this.work = new Work(item, this.drafts, { again });
    this.presence.holds(lock?.seconds ?? 0);
    this.prompt.show(item.prompt);
    this.board.open(item.answers);
    this.#state("ranking");
    this.draw();
    scrollTo(0, 0);
    find("#asked").focus({ preventScroll: true });
    this.busy = false;
    const begun = this.work.order.tiers.length ? ` So far: ${this.inWords()}.` : "";
    announce(`${again ? "Taken back." : `${item.answers.length} answers to rank.`}${begun}`);
  }

  /** Shows what the work is now. */
  draw() {
    const { work, board } = this;
    board.show(work.order, work.flags);
    const active = board.active;
    const flags = active ? (work.flags.get(active) ?? []) : [];
    for (const button of document.querySelectorAll("[data-flag]")) {
      button.setAttribute("aria-pressed", String(flags.includes(FLAGS[button.dataset.flag])));
      button.setAttribute("aria-disabled", String(!active));
    }
    show("#flagged", active ? `Flag ${active.toUpperCase()}` : "Flag");
    show("#noted", work.note.trim() ? "● written" : "");
    find("#submit").setAttribute("aria-disabled", String(!work.enough));
  }

  /** Changes the order by `how` and says where `key` stands now. */
  reorder(key, how) {
    const { work, board } = this;
    if (!work || this.busy) return;
    const changed = work.change(how(work.order));
    board.choose(key);
    this.draw();
    if (!changed) return;
    const tier = tierOf(work.order, key);
    const others = tier < 0 ? [] : work.order.tiers[tier].filter((other) => other !== key);
    const tied = others.length ? `, tied with ${inWords([others], [])}` : "";
    announce(`${key.toUpperCase()} ${tier < 0 ? "is not ranked" : `is number ${tier + 1}${tied}`}.`);
  }

  inWords() {
    return inWords(this.work.order.tiers, unranked(this.work.order));
  }

  /** Puts what was decided on its way and goes on. Nothing of it is forgotten before the server has it. */
  async decide(kind) {
    const { work } = this;
    if (kind === "rank" && !work.enough) {
      announce("Rank at least two answers; or skip (S), or say that you can't judge (X).", { seen: true });
      return;
    }
    const events = this.source.events(work, kind);
    for (const event of events) this.lastKey = this.outbox.add("/api/events", event);
    work.keep({ sent: events.length });
    const words = { rank: `Submitted: ${this.inWords()}.`, skip: "Skipped.", cant_judge: "Noted: can't judge." };
    announce(words[kind], { seen: true });
    await this.#goOn();
  }

  /** Takes the newest decision back; its item comes again. */
  async undo() {
    this.outbox.add("/api/undo", { undoes: this.lastKey ?? this.last });
    this.lastKey = null;
    await this.#goOn();
  }

  async #goOn() {
    this.busy = true;
    this.stalled = false;
    this.#state("sending");
    if (await this.outbox.flush()) await this.next();
    else this.stalled = true;
  }

  #acknowledged(entry, body) {
    this.#progress(body.progress);
    if (entry.path !== "/api/undo") return;
    const { item, kind } = body;
    // Flags and notes went out before their decision, and are taken back with it, one after the other.
    const decided = DECISIONS.includes(kind) && entry.part === null;
    if (decided) this.reopened = { item, kind };
    const left = entry.part ?? (decided ? this.drafts.sentAs(item) - 1 : 1);
    if (left < 1) return;
    // The keys follow from this one's: two pages of one browser that both hear of it do not take back twice as much.
    const key = `${entry.body.key.slice(0, 80)}-${left}`;
    const part = decided || entry.part !== null ? left - 1 : null;
    this.outbox.add("/api/undo", { undoes: this.last }, { key, part });
  }

  /** Shows how things stand, and notes what an undo would take back. */
  #progress(progress) {
    showProgress(progress);
    if (progress) this.last = progress.last;
  }

  #refuses(entry, answer) {
    if (entry.body.key === this.lastKey) this.lastKey = null;
    if (entry.path !== "/api/undo") {
      if (!DECISIONS.includes(entry.body.kind)) this.drafts.refused(entry.body.item);
      return true;
    }
    announce(`There is nothing to take back.${answer.body?.error ? ` (${answer.body.error})` : ""}`, { seen: true });
    return false;
  }

  #report() {
    reportWay(this.outbox);
    reportRefusals(this.outbox, () => this.#goOn());
    if (this.stalled && this.outbox.state === "open" && this.outbox.length === 0) {
      this.stalled = false;
      this.next();
    }
  }

  #unanswered(answer) {
    const actions = strangers(answer) ? { "Load again": () => location.reload() } : { "Try now": () => this.next() };
    banner("next", plainly(answer), actions);
    // An item that was taken back and cannot be had gives way to the next one.
    if (!passing(answer) && !strangers(answer)) this.reopened = null;
    if (passing(answer)) this.timer = setTimeout(() => this.next(), AGAIN);
  }

  #nothing(body) {
    this.work = null;
    this.busy = false;
    this.presence.holds(0);
    this.#state("nothing");
    const { title, words, again } = this.source.nothing(body);
    show("#nothing-title", title);
    show("#why", words);
    if (again) this.timer = setTimeout(() => this.next(), AGAIN);
    announce(title);
  }

  #state(name) {
    document.body.dataset.state = name;
  }

  #second() {
    if (!this.work || this.busy) return;
    this.work.seconds += 1;
    if (this.work.seconds % 5 === 0) this.work.keep();
  }

  async #renew() {
    if (!this.work || this.busy) return;
    const { id } = this.work.item;
    const answer = await post("/api/renew", { item: id });
    if (this.work?.item.id !== id) return;
    if (strangers(answer)) banner("next", plainly(answer), { "Load again": () => location.reload() });
    else if (answer.status === 409) announce(plainly(answer), { seen: true });
  }

  #bind() {
    bindDialogs({ written: (note) => this.#written(note) });
    addEventListener("keydown", (event) => this.#pressed(event));
    document.addEventListener("click", (event) => this.#clicked(event));
    new Drag(this.board, {
      began: (key) => this.board.choose(key),
      over: (target) => this.board.mark(target),
      dropped: (key, target) => this.reorder(key, (order) => place(order, key, target)),
    });
    addEventListener("online", () => this.#back());
    document.addEventListener("visibilitychange", () => document.hidden || this.#back());
    addEventListener("beforeunload", (event) => this.outbox.length && !this.kept.lasting && event.preventDefault());
  }

  #back() {
    if (this.outbox.state === "away") this.outbox.flush();
    else if (find('[data-banner="next"]')) this.next();
  }

  #written(note) {
    if (!this.work || this.busy) return;
    this.work.write(note);
    show("#noted", note.trim() ? "● written" : "");
  }

  #pressed(event) {
    if (taken(event)) return;
    const found = commandOf(event, { keys: this.keys, at: this.board.focused(), single: singleKeys() });
    if (!found) return;
    event.preventDefault();
    perform(this, found);
  }

  #clicked(event) {
    const button = event.target.closest("[data-do]");
    const key = event.target.closest("[data-key]")?.dataset.key;
    // A pressed button keeps the focus, and the next Enter would press it again instead of submitting.
    if (button && event.detail > 0) button.blur();
    if (button) perform(this, { command: button.dataset.do, key, flag: Number(button.dataset.flag) });
    else if (key && this.work && !this.busy && key !== this.board.active && !String(getSelection())) {
      this.board.choose(key);
      this.draw();
    }
  }
}

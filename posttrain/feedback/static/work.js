// The item that a person is at: its order with the steps to here, flags, note and seconds. Each change is kept.

import { orderOf, rankedCount, same } from "./order.js";

export const FLAGS = ["wrong", "harmful", "off-topic", "broken"];
const LONGEST = 100; // steps that can be taken back

export class Work {
  /**
   * Work at `item`, as its draft left it. `again`: it is open once more, after the undo of a decision of this kind.
   * Otherwise a draft that was sent says nothing: who is asked a second time is asked without a hint.
   */
  constructor(item, drafts, { again = null } = {}) {
    this.item = item;
    this.drafts = drafts;
    this.past = [];
    const draft = drafts.of(item);
    const open = draft && (again || !draft.sent) ? draft : {};
    const before = again === "rank" ? (item.tiers ?? open.tiers) : open.tiers;
    this.order = orderOf(item.answers.map(({ key }) => key), before ?? []);
    this.flags = new Map(Object.entries(open.flags ?? {}));
    this.note = open.note ?? "";
    this.seconds = open.seconds ?? 0;
    if (again) this.keep();
  }

  /** Whether the order changed. */
  change(next) {
    if (same(this.order, next)) return false;
    this.past = [...this.past, this.order].slice(-LONGEST);
    this.order = next;
    this.keep();
    return true;
  }

  /** Whether there was a step to take back. */
  back() {
    const before = this.past.pop();
    if (!before) return false;
    this.order = before;
    this.keep();
    return true;
  }

  /** Whether `flag` stands at `answer` now. */
  toggle(answer, flag) {
    const flags = new Set(this.flags.get(answer));
    const set = !flags.delete(flag);
    if (set) flags.add(flag);
    this.flags.set(answer, FLAGS.filter((known) => flags.has(known)));
    this.keep();
    return set;
  }

  write(note) {
    this.note = note;
    this.keep();
  }

  get enough() {
    return rankedCount(this.order) >= 2;
  }

  keep({ sent = null } = {}) {
    this.drafts.keep(this.item, {
      tiers: this.order.tiers,
      flags: Object.fromEntries(this.flags),
      note: this.note,
      seconds: this.seconds,
      sent,
    });
  }

  /** The events that say what was done, the decision last: an undo takes back the newest. */
  events(kind) {
    const item = this.item.id;
    const flagged = [...this.flags].filter(([, flags]) => flags.length > 0);
    const events = flagged.map(([answer, flags]) => ({ item, kind: "flag", answer, flags }));
    if (this.note.trim()) events.push({ item, kind: "note", text: this.note });
    const order = kind === "rank" ? { tiers: this.order.tiers } : {};
    return [...events, { item, kind, ...order, seconds: Math.round(this.seconds) }];
  }
}

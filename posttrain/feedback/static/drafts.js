// Rankings that are not finished, kept in the browser: an item that comes again is as it was left. One that was sent stays
// for a while, since its flags and its note come back with an undo.

const OLDEST = 30 * 24 * 3600 * 1000; // milliseconds; what nobody came back to by then is forgotten

/** The drafts of `whose`, one person's of one store: order, flags, note and seconds; `sent` is the number of events it became, or null. */
export class Drafts {
  constructor(kept, whose) {
    this.kept = kept;
    this.start = `posttrain/draft/${whose}/`;
    for (const key of kept.keys(this.start)) if (Date.now() - (kept.get(key)?.at ?? 0) > OLDEST) kept.remove(key);
  }

  /** The draft of an item, or null: also where its answers are others than those that the draft is about. */
  of(item) {
    const draft = this.kept.get(this.start + item.id);
    return draft?.mark === mark(item) ? draft : null;
  }

  /** How many events a decision of this item was sent as; 1 where this browser does not know. */
  sentAs(id) {
    return this.kept.get(this.start + id)?.sent ?? 1;
  }

  /** Notes that one event fewer was taken. */
  refused(id) {
    const draft = this.kept.get(this.start + id);
    if (draft?.sent > 1) this.kept.set(this.start + id, { ...draft, sent: draft.sent - 1 });
  }

  keep(item, draft) {
    this.kept.set(this.start + item.id, { ...draft, mark: mark(item), at: Date.now() });
  }
}

/** A number that tells answers from others (FNV-1a). */
function mark(item) {
  let hash = 0x811c9dc5;
  for (const { key, text } of item.answers)
    for (const character of `${key}${text}\u0000`) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193);
  return hash >>> 0;
}

// What a person did and the server has not acknowledged yet. It is kept in the browser first, then sent, then removed:
// a page that is killed, or has no connection, sends it again later under the same key, which the server takes once.

import { passing, post, strangers, uuid } from "./server.js";

const PAUSES = [1, 2, 4, 8, 15, 30]; // seconds before one try after another

/**
 * Events of `whose` on their way: one person's for one store. `changed` is called whenever more or fewer of them wait, or the way is blocked;
 * `acknowledged(entry, body)` when the server has one; `refuses(entry, answer)` says whether a refused one is kept.
 */
export class Outbox {
  constructor({ kept, whose, changed, acknowledged, refuses }) {
    Object.assign(this, { kept, changed, acknowledged, refuses });
    Object.assign(this, { counter: 0, tries: 0, timer: null, sending: null, blocked: null });
    this.state = "open"; // "away": no answer, it is tried again; "strangers": the page has to be loaded again
    this.waiting = `posttrain/waiting/${whose}/`;
    this.refused = `posttrain/refused/${whose}/`;
  }

  /**
   * The key of the event that is kept now and goes out last. `part`: it belongs to one before it, and so many more do.
   */
  add(path, body, { key = uuid(), part = null } = {}) {
    this.counter += 1;
    // The name puts entries in the order in which they were made, after a reload too.
    const order = `${String(Date.now()).padStart(15, "0")}-${String(this.counter).padStart(6, "0")}`;
    this.kept.set(`${this.waiting}${order}/${key}`, { path, body: { ...body, key }, part });
    this.changed();
    return key;
  }

  /** How many events wait to be sent. */
  get length() {
    return this.kept.keys(this.waiting).length;
  }

  /** The events that the server did not take, with its reason. */
  refusals() {
    return this.kept.keys(this.refused).map((key) => ({ ...this.kept.get(key), name: key }));
  }

  /** Puts a refused event back among those that wait. */
  again(name) {
    const { answer, ...entry } = this.kept.get(name);
    this.kept.set(name.replace(this.refused, this.waiting), entry);
    this.kept.remove(name);
    this.changed();
  }

  /** Forgets a refused event. */
  discard(name) {
    this.kept.remove(name);
    this.changed();
  }

  /** Whether everything went out. Entries go one by one, in order; what cannot be helped by waiting is set aside. */
  flush() {
    clearTimeout(this.timer);
    this.sending ??= this.#flush();
    return this.sending;
  }

  async #flush() {
    await null; // whoever asks meanwhile waits for this one
    try {
      for (let name = this.#first(); name; name = this.#first()) {
        const blocked = await this.#send(name);
        if (blocked) return this.#wait(blocked);
      }
      this.state = "open";
      return true;
    } finally {
      this.sending = null;
      this.changed();
    }
  }

  /** The answer that says that nothing gets through now, or null. */
  async #send(name) {
    const entry = this.kept.get(name);
    if (entry?.path) {
      const answer = await post(entry.path, entry.body);
      if (passing(answer) || strangers(answer)) return answer;
      this.tries = 0;
      this.state = "open";
      if (answer.status < 300) this.acknowledged(entry, answer.body);
      else this.#refuse(name, entry, answer);
    }
    this.kept.remove(name); // without a path it was sent by another page of this browser
    return null;
  }

  #first() {
    return this.kept.keys(this.waiting)[0];
  }

  #wait(answer) {
    this.blocked = answer;
    this.state = passing(answer) ? "away" : "strangers";
    if (this.state === "strangers") return false;
    const pause = PAUSES[Math.min(this.tries, PAUSES.length - 1)];
    this.tries += 1;
    // Pages that lost one server at one moment do not all come back at one moment.
    this.timer = setTimeout(() => this.flush(), pause * 1000 * (0.75 + Math.random() / 2));
    return false;
  }

  #refuse(name, entry, answer) {
    if (this.refuses(entry, answer)) this.kept.set(name.replace(this.waiting, this.refused), { ...entry, answer });
    // The undo of an event that was never taken would take back the one before it.
    for (const other of this.kept.keys(this.waiting))
      if (this.kept.get(other)?.body?.undoes === entry.body.key) this.kept.remove(other);
  }
}

// What a page remembers between visits, or as long as it is open where the browser remembers nothing.

/** Pairs of key and value that stay in the browser, or in this page alone where the browser keeps nothing. */
export class Kept {
  /** `storage()` gives what the browser has for it; asking can fail already. */
  constructor(storage) {
    this.memory = new Map();
    this.lasting = true; // false: full, or switched off
    try {
      this.storage = storage();
      this.storage.getItem("");
    } catch {
      this.lasting = false;
    }
  }

  set(key, value) {
    this.memory.set(key, value);
    try {
      this.storage.setItem(key, JSON.stringify(value));
      this.memory.delete(key);
    } catch {
      this.lasting = false;
    }
  }

  get(key) {
    try {
      return JSON.parse(this.storage.getItem(key)) ?? this.memory.get(key) ?? null;
    } catch {
      return this.memory.get(key) ?? null; // no storage, or an entry that is damaged
    }
  }

  remove(key) {
    this.memory.delete(key);
    try {
      this.storage.removeItem(key);
    } catch {
      this.lasting = false;
    }
  }

  /** The keys that begin with `start`, sorted. */
  keys(start) {
    const found = new Set(this.memory.keys());
    try {
      for (let index = 0; index < this.storage.length; index += 1) found.add(this.storage.key(index));
    } catch {
      this.lasting = false;
    }
    return [...found].filter((key) => key.startsWith(start)).sort();
  }
}

// Items that events put in, in order, for one reader with `for await`.

export class Inbox {
  constructor() {
    this.items = [];
    this.wake = () => {};
  }

  put(item) { this.#add({ item }); }
  /** The reader gets the items that are queued, then this error. */
  fail(error) { this.#add({ error }); }
  /** The reader gets the items that are queued, then the iteration ends. */
  end() { this.#add({ done: true }); }

  #add(entry) {
    this.items.push(entry);
    this.wake();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.items.length === 0) await new Promise((resolve) => { this.wake = resolve; });
      const next = this.items.shift();
      if (next.error) throw next.error;
      if (next.done) return;
      yield next.item;
    }
  }
}

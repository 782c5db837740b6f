// How a page notices a line that died without a sign, as after a laptop's sleep or a change of network: it counts the silence.

import { parsed } from "./api.js";

/** Bytes that were on their way when the line died, or when the page asked, have arrived within this time. */
const MOMENT_MS = 1000;

const wakes = new EventTarget();
let woke = -Infinity;

function wake() {
  woke = performance.now();
  wakes.dispatchEvent(new Event("wake"));
}
addEventListener("online", wake);
document.addEventListener("visibilitychange", () => { if (document.visibilityState === "visible") wake(); });

/** When the page was last shown again or came online; timers do not run reliably before that. */
export function wokeAt() { return woke; }

export function elapsed(ms) { return new Promise((resolve) => setTimeout(resolve, ms)); }

/** Wait for `ms`, or until the page wakes. */
export function pause(ms) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      wakes.removeEventListener("wake", done);
      resolve();
    }
    wakes.addEventListener("wake", done);
  });
}

/** Exponential backoff with jitter, in milliseconds. */
export function backoffMs(attempt) {
  return Math.min(2000, 50 * 2 ** attempt) * (0.5 + Math.random() / 2);
}

/** The silence of one line: `silent()` after each `silenceMs` without `heard()`, `woken()` when the page wakes. Call `stop()` at the end. */
export class Watch {
  constructor(silenceMs, { silent, woken = silent }) {
    this.silenceMs = silenceMs;
    this.heardAt = performance.now();
    this.since = this.heardAt;
    this.silent = silent;
    this.woken = woken;
    this.stopped = false;
    wakes.addEventListener("wake", this.woken);
    this.#wait(silenceMs);
  }

  get words() { return `nothing came for ${Math.round((performance.now() - this.heardAt) / 100) / 10} s`; }

  heard() { this.heardAt = this.since = performance.now(); }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    wakes.removeEventListener("wake", this.woken);
  }

  #wait(ms) {
    if (this.stopped) return;
    this.timer = setTimeout(() => {
      const rest = this.silenceMs - (performance.now() - this.since);
      if (rest <= 0) {
        this.since = performance.now();
        this.silent();
      }
      this.#wait(rest <= 0 ? this.silenceMs : rest);
    }, ms);
  }

  /** Whether the line was silent for so long that bytes which arrive now were sent after the silence. */
  get quiet() { return performance.now() - this.heardAt > MOMENT_MS; }

  /**
   * Ask where the turn stands; `after()` is the seq that the page has. Resolves to why the line is lost (the log is ahead of the page
   * and nothing comes, or the server does not answer), or to null.
   */
  async look(api, turnId, after) {
    try {
      const { ok, status, text } = await api.look(`/turns/${turnId}`);
      if (!ok) return `${this.words}, and the server answered ${status} when asked for the turn`;
      const last = parsed(text).last_seq;
      while (after() < last) {
        await elapsed(MOMENT_MS);
        if (this.quiet && after() < last) return `${this.words}, but the turn is at event ${last}`;
      }
      return null;
    } catch (error) {
      return this.quiet ? `${this.words}, also when the page asked for the turn (${error.message})` : null;
    }
  }
}

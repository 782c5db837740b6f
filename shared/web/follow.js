// Read a turn to its end over any wire: drop what was seen, and when the line is lost, come back to the cursor with backoff.

import { Lost, PASSING, Refused, Silent } from "./api.js";
import { TERMINAL } from "./events.js";
import { backoffMs, pause, wokeAt } from "./patience.js";

const GIVE_UP_MS = 30_000;

/**
 * Read a turn on a wire to its end: `open()` asks or begins to read, `wire.read(turnId, after)` goes on from a cursor.
 *
 * Yields events, `{type: "lost", after, why}` and `{type: "resumed", after, ms, native}`, or one `{type: "reply"}` on plain REST.
 *
 * Both are async generators of events, and of `{type: "lost", why}` where the browser comes back by itself (`native`). Throws Refused,
 * also after a lost line unless the refusal passes; throws Lost after 30 s without an event, counted from the last waking of the page,
 * and never while the browser is offline.
 */
export async function* follow(wire, open, turnId = null, after = 0) {
  let stream = open;
  let lostAt = null;
  let native = false;
  let silent = false;
  for (let attempt = 0; ; attempt++) {
    try {
      // The browser's idle connections may have died with the line: find one that lives before the turn is asked for on it.
      if (silent) await wire.reach?.();
      silent = false;
      for await (const item of stream()) {
        if (item.type === "lost") {
          native = true;
          if (lostAt === null) {
            lostAt = performance.now();
            yield { type: "lost", after, why: item.why };
          }
          continue;
        }
        if (lostAt !== null) {
          yield { type: "resumed", after, ms: performance.now() - lostAt, native };
          lostAt = null;
          attempt = 0;
        }
        if (item.type === "reply") {
          yield item;
          return;
        }
        if (item.seq <= after) continue;
        if (item.seq !== after + 1) throw new Lost(`event ${after + 1} is missing`);
        turnId = item.turn_id;
        after = item.seq;
        yield item;
        if (TERMINAL.has(item.type)) return;
      }
      throw new Lost("the stream ended without its terminal event");
    } catch (error) {
      const passes = error instanceof Lost || (lostAt !== null && error instanceof Refused && PASSING.has(error.code));
      if (!passes) throw error;
      native = false;
      silent ||= error instanceof Silent;
      if (lostAt === null) {
        lostAt = performance.now();
        yield { type: "lost", after, why: error.message };
      }
      if (navigator.onLine && performance.now() - Math.max(lostAt, wokeAt()) > GIVE_UP_MS) throw error;
    }
    await pause(backoffMs(attempt));
    if (turnId !== null) {
      const [from, seen] = [turnId, after];
      stream = () => wire.read(from, seen);
    }
  }
}

// Read a turn to its end over any wire: drop what was seen, and when the line is lost, come back to the cursor with backoff.
// When the store has lost what was shown, the turn is read again from its first event.

import { Lost, PASSING, Refused, Silent } from "./api.js";
import { CURSOR_LOST, TERMINAL } from "./events.js";
import { backoffMs, pause, wokeAt } from "./patience.js";

const GIVE_UP_MS = 30_000;

/**
 * Read a turn on a wire to its end: `open()` asks or begins to read, `wire.read(turnId, after)` goes on from a cursor.
 *
 * Yields events, `{type: "lost", after, why}` and `{type: "resumed", after, ms, native}`, or one `{type: "reply"}` on plain REST;
 * `{type: "rewound", after, lostEvents}` when the store has lost events: drop what is shown of the turn, it comes again from seq 1.
 *
 * Both are async generators of events, of `cursor_lost`, and of `{type: "lost", why}` where the browser comes back by itself (`native`). Throws Refused,
 * also after a lost line unless the refusal passes; throws Lost after 30 s without an event, counted from the last waking of the page,
 * and never while the browser is offline.
 */
export async function* follow(wire, open, turnId = null, after = 0) {
  let stream = open;
  let lostAt = null;
  let native = false;
  let silent = false;
  for (let attempt = 0; ; attempt++) {
    let answered = false;
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
        if (item.type === CURSOR_LOST) {
          yield rewound(after, item.last_seq);
          after = 0;
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
        if (item.type === CURSOR_LOST || item.seq <= after) continue;
        if (item.seq !== after + 1) throw new Lost(`event ${after + 1} is missing`);
        turnId = item.turn_id;
        after = item.seq;
        answered = true;
        yield item;
        if (TERMINAL.has(item.type)) return;
      }
      throw new Lost("the stream ended without its terminal event");
    } catch (error) {
      if (error instanceof Refused && error.code === CURSOR_LOST && after > 0) {
        yield rewound(after, error.lastSeq);
        after = 0;
        const from = turnId;
        stream = () => wire.read(from, 0);
        continue;
      }
      // A refusal after the first event ends a stream early, as a lost line does: the turn itself goes on.
      const began = lostAt !== null || answered;
      const passes = error instanceof Lost || (began && error instanceof Refused && PASSING.has(error.code));
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

/** The last of the store's events is the turn's end, which was not shown. */
function rewound(after, lastSeq) {
  return { type: "rewound", after, lostEvents: Math.max(0, after - lastSeq + 1) };
}

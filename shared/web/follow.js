// Read a turn to its end over any wire: drop what was seen, and when the line breaks, come back to the cursor with backoff.

import { Refused, TERMINAL } from "./api.js";

const GIVE_UP_MS = 30_000;

class Incomplete extends Error {}

/**
 * Yields events, `{type: "lost", after}` and `{type: "resumed", after, ms}`, or one `{type: "reply"}` on plain REST.
 * `open()` asks, `read(turnId, after)` goes on from a cursor; both are async generators of events.
 */
export async function* follow(open, read, turnId = null, after = 0) {
  let stream = open;
  let lostAt = null;
  for (let attempt = 0; ; attempt++) {
    try {
      for await (const event of stream()) {
        if (lostAt !== null) {
          yield { type: "resumed", after, ms: performance.now() - lostAt };
          lostAt = null;
          attempt = 0;
        }
        if (event.type === "reply" || event.type === "lost" || event.type === "resumed") {
          yield event;
          if (event.type === "reply") return;
          continue;
        }
        if (event.seq <= after) continue;
        if (event.seq !== after + 1) throw new Incomplete(`event ${after + 1} is missing`);
        turnId = event.turn_id;
        after = event.seq;
        yield event;
        if (TERMINAL.has(event.type)) return;
      }
      throw new Incomplete("the stream ended without its terminal event");
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (lostAt === null) {
        lostAt = performance.now();
        yield { type: "lost", after, why: error.message };
      }
      if (performance.now() - lostAt > GIVE_UP_MS) throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(2000, 60 * 2 ** attempt) * (0.5 + Math.random() / 2)));
    if (turnId !== null) {
      const [from, seen] = [turnId, after];
      stream = () => read(from, seen);
    }
  }
}

// The events of a turn, as every wire but gRPC sends them: one JSON object each (see shared/events.py).

import { parsed } from "./api.js";

export const TERMINAL = new Set(["turn_completed", "turn_failed", "turn_cancelled", "turn_interrupted"]);

/** No event: the store has lost what the page was sent of a turn. The turn's events from the first one follow, or the stream ends. */
export const CURSOR_LOST = "cursor_lost";

/** Every type, for EventSource: it gives a script only the types that the script names. */
export const TYPES = [
  "turn_started", "thinking", "chunk", "image_started", "image_chunk", "image_completed", ...TERMINAL, CURSOR_LOST,
];

/** An event from its JSON, or from the object that the JSON held; the base64 of a picture becomes `bytes`. */
export function eventOf(json) {
  const event = typeof json === "string" ? parsed(json) : json;
  if (event.data !== undefined) event.bytes = fromBase64(event.data);
  return event;
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

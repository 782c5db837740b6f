// A frame of a wire in parts: the text that a person reads, the fields around it, and the framing of the protocol.

const TEXT_FIELDS = "text|message|prompt|input";
const BYTES_FIELDS = "data|image";
const STRING = new RegExp(`"(${TEXT_FIELDS}|${BYTES_FIELDS})":\\s?"((?:[^"\\\\]|\\\\.)*)"`, "g");
const FOLDED_CHARS = 120;
const encoder = new TextEncoder();

/** The bytes of a text in UTF-8. */
export const bytesOf = (text) => encoder.encode(text).length;

/** A frame as `[kind, text]` pairs in order; kind is text, base64, fields or framing. Together they are the whole frame. */
export function partsOf(frame) {
  const start = frame.search(/[{[]/);
  if (start < 0) return [["framing", frame]];
  const parts = start ? [["framing", frame.slice(0, start)]] : [];
  const body = frame.slice(start);
  let at = 0;
  for (const match of body.matchAll(STRING)) {
    const from = match.index + match[0].length - match[2].length - 1;
    parts.push(["fields", body.slice(at, from)]);
    const isText = TEXT_FIELDS.split("|").includes(match[1]);
    parts.push([isText ? "text" : match[2].length > FOLDED_CHARS ? "base64" : "fields", match[2]]);
    at = from + match[2].length;
  }
  parts.push(["fields", body.slice(at)]);
  return parts.filter(([, text]) => text);
}

/** Wires whose messages are no text: a page shows them as JSON, and the number of their bytes comes from the message. */
const BINARY = new Set(["grpc-web"]);

/** What each wire puts around the text of a frame that a page sees, in bytes. HTTP's own heads and chunk sizes are not among them. */
const AROUND = {
  // A line feed ends the event.
  ndjson: () => 1,
  // The line feed after the last field, and the empty line that ends the event.
  sse: () => 2,
  // The length prefix.
  "grpc-web": () => 5,
  // RFC 6455, section 5.2: a server's frame is not masked.
  websocket: (size) => (size < 126 ? 2 : size < 65536 ? 4 : 10),
};

/** The bytes of a frame that arrived: `{text, fields, framing}`. `word` is the lane's; `size` counts where a frame is shown otherwise than it was sent. */
export function countParts(word, frame, size) {
  const count = { text: 0, fields: 0, framing: 0 };
  for (const [kind, part] of partsOf(frame)) {
    // What JSON escapes is text as a person reads it, and the escapes are fields.
    const shown = kind === "text" ? bytesOf(unescaped(part)) : 0;
    count.text += shown;
    count[kind === "framing" ? "framing" : "fields"] += bytesOf(part) - shown;
  }
  count.framing += AROUND[word]?.(bytesOf(frame)) ?? 0;
  if (BINARY.has(word)) count.fields = size - count.text - count.framing;
  return count;
}

function unescaped(part) {
  try {
    return JSON.parse(`"${part}"`);
  } catch {
    return part;
  }
}

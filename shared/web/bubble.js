// What one person or the model said, as a list item of the chat: text or Markdown, a picture, and a line of facts below.

import { show } from "./markdown.js";
import { $, make } from "./page.js";

export class Bubble {
  constructor(role) {
    this.text = "";
    this.body = make("div", { className: "text" });
    this.meta = make("div", { className: "meta" });
    this.item = make("li", { className: role }, this.body, this.meta);
    this.drawing = 0;
    this.picture = null;
    this.prompt = "";
    this.parts = new Map();
    $("messages").append(this.item);
  }

  add(text) {
    this.text += text;
    // The text is drawn once a frame, also when several chunks came.
    if (!this.drawing) this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.draw(); });
  }

  draw() {
    const atEnd = isAtEnd();
    const raw = $("raw").checked || this.item.className === "user";
    this.body.classList.toggle("raw", raw);
    if (raw) {
      this.body.classList.remove("markdown");
      this.body.textContent = this.text;
    } else show(this.body, this.text);
    if (atEnd) toEnd();
  }

  /** An `image_started` or `image_chunk`: a picture is shown when its last byte is here. */
  part(event) {
    if (event.type === "image_started") this.parts.set(event.image_id, { ...event, pieces: [] });
    if (event.type === "image_chunk") {
      const part = this.parts.get(event.image_id);
      part.pieces.push(event.bytes);
      if (event.offset + event.bytes.length === part.size_bytes) this.see(new Blob(part.pieces, { type: part.mime_type }), part.preview);
    }
  }

  /** Clear the bubble. */
  clear() {
    this.text = "";
    this.parts.clear();
    this.picture?.remove();
    this.picture = null;
    this.draw();
  }

  see(blob, preview, alt = "") {
    if (!this.picture) {
      this.picture = make("img", { alt });
      this.item.prepend(this.picture);
    }
    const old = this.picture.src;
    this.picture.src = URL.createObjectURL(blob);
    this.picture.classList.toggle("preview", preview);
    this.picture.alt = alt || this.prompt || "The picture";
    if (old) URL.revokeObjectURL(old);
    // The height of a picture is known once it is decoded.
    this.picture.addEventListener("load", toEnd, { once: true });
  }
}

/** A line between the bubbles: what happened to the connection. */
export function seam(words) {
  const atEnd = isAtEnd();
  $("messages").append(make("li", { className: "seam", text: words }));
  if (atEnd) toEnd();
}

const NEAR_PX = 80;

/** Whether the newest message is in sight; then it stays there while more comes. */
export function isAtEnd() {
  const list = $("messages");
  return list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_PX;
}

export function toEnd() {
  $("messages").scrollTop = $("messages").scrollHeight;
}

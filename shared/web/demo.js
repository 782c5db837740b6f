// The chat page, the same on the four HTTP servers; only the wire differs, and it is the one of the server that gave the page.

import { Api, Refused, TERMINAL, requestKey, sha256 } from "./api.js";
import { follow } from "./follow.js";
import { show } from "./markdown.js";

const WIRES = { rest: "rest", ndjson: "ndjson", sse: "sse", websocket: "websocket" };
const STATUS = {
  turn_completed: "", turn_failed: "failed", turn_cancelled: "stopped", turn_interrupted: "interrupted: the server went away",
};
const FRAMES_KEPT = 300;
const LOOK_MS = 1000;

const $ = (id) => document.getElementById(id);
const api = new Api();
let wire = null;
let session = null;
let running = null; // the turn this window reads now: {turnId, key}
const seen = new Set(); // turns shown already, so that following the session shows none twice
let bytes = 0;

function make(tag, { text, className, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function state(kind, words) {
  $("dot").className = `dot ${kind}`;
  $("state").textContent = words;
}

function complain(error) {
  $("error").hidden = false;
  $("error").textContent = error instanceof Refused ? `${error.code}: ${error.message}` : String(error.message || error);
  if (error instanceof Refused && error.code === "unauthenticated") {
    $("keyform").hidden = false;
    $("key").focus();
  }
  state("bad", "error");
}

const attempt = (work) => async (...args) => {
  $("error").hidden = true;
  try {
    return await work(...args);
  } catch (error) {
    complain(error);
  }
};

// -- the drawer ----------------------------------------------------------------------------------------------------------

function frame(direction, text, size) {
  bytes += size ?? text.length;
  $("bytes").textContent = `${bytes.toLocaleString()} characters of frames`;
  if ($("drawer").hidden) return;
  const shown = text.length > 1200 ? `${text.slice(0, 1200)}… (${text.length} in all)` : text;
  $("frames").append(make("li", { className: direction, text: shown }));
  while ($("frames").childElementCount > FRAMES_KEPT) $("frames").firstElementChild.remove();
  $("frames").scrollTop = $("frames").scrollHeight;
}

// -- messages ------------------------------------------------------------------------------------------------------------

class Bubble {
  constructor(role) {
    this.text = "";
    this.body = make("div", { className: "text" });
    this.meta = make("div", { className: "meta" });
    this.item = make("li", { className: role }, this.body, this.meta);
    this.drawing = 0;
    this.picture = null;
    this.parts = new Map();
    $("messages").append(this.item);
  }

  add(text) {
    this.text += text;
    // One drawing a frame, however many chunks came.
    if (!this.drawing) this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.draw(); });
  }

  draw() {
    const list = $("messages");
    const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
    const raw = $("raw").checked || this.item.className === "user";
    this.body.classList.toggle("raw", raw);
    if (raw) this.body.textContent = this.text;
    else show(this.body, this.text);
    if (atEnd) list.scrollTop = list.scrollHeight;
  }

  part(event) {
    if (event.type === "image_started") this.parts.set(event.image_id, { ...event, pieces: [] });
    if (event.type === "image_chunk") {
      const part = this.parts.get(event.image_id);
      part.pieces.push(event.bytes);
      if (event.offset + event.bytes.length === part.size_bytes) this.see(new Blob(part.pieces, { type: part.mime_type }), part.preview);
    }
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
    $("messages").scrollTop = $("messages").scrollHeight;
  }
}

function seam(words) {
  $("messages").append(make("li", { className: "seam", text: words }));
}

const bubbles = [];
function bubble(role) {
  const made = new Bubble(role);
  bubbles.push(made);
  return made;
}

// -- one turn, whoever asked -----------------------------------------------------------------------------------------------

async function play(items, { asked = null, key = null } = {}) {
  const begun = performance.now();
  const arrivals = [];
  let reply = null;
  let turnId = null;
  let terminal = null;
  let thinking = null;
  running = { key, turnId: null };
  busy(true);
  try {
    for await (const item of items) {
      switch (item.type) {
        case "turn_started":
          turnId = item.turn_id;
          running.turnId = turnId;
          seen.add(turnId);
          if (asked === null) {
            const own = bubble("user");
            own.add(item.input);
            own.draw();
          }
          if (session === null && item.session_id) await choose(item.session_id, false);
          reply = bubble("model");
          reply.prompt = item.input;
          break;
        case "thinking":
          thinking = countThinking();
          break;
        case "chunk":
          thinking?.stop();
          arrivals.push(performance.now());
          reply.add(item.text);
          numbers(begun, arrivals, false);
          break;
        case "image_started":
        case "image_chunk":
          reply.part(item);
          break;
        case "lost":
          thinking?.stop();
          state("bad", `line lost after event ${item.after}`);
          seam(`line lost after event ${item.after}`);
          break;
        case "resumed":
          state("busy", "answering");
          seam(`back after ${Math.round(item.ms)} ms at event ${item.after}${item.native ? " (by the browser itself)" : ""}: nothing lost, nothing twice`);
          break;
        case "reply":
          turnId = item.turn_id;
          seen.add(turnId);
          if (item.session_id && session === null) await choose(item.session_id, false);
          reply = bubble("model");
          arrivals.push(performance.now());
          if (item.bytes) reply.see(new Blob([item.bytes], { type: item.mime_type }), false, asked ?? "");
          else reply.add(item.text);
          terminal = { type: "turn_completed", sha256: item.text === undefined ? null : item.sha256, status: item.status };
          break;
        default:
          if (TERMINAL.has(item.type)) terminal = item;
      }
    }
    reply?.draw();
    numbers(begun, arrivals, true);
    if (reply && terminal) await finish(reply, terminal);
    state("good", "ready");
  } finally {
    thinking?.stop();
    running = null;
    busy(false);
    list();
  }
}

/** Shows "thinking, 12 s" until it is stopped. */
function countThinking() {
  const begun = performance.now();
  const show = () => state("busy", `thinking, ${Math.round((performance.now() - begun) / 1000)} s`);
  show();
  let timer = setInterval(show, 1000);
  return {
    stop() {
      if (timer === null) return;
      clearInterval(timer);
      timer = null;
      state("busy", "answering");
    },
  };
}

async function finish(reply, terminal) {
  const words = [STATUS[terminal.type]];
  if (terminal.type === "turn_failed") words.push(`${terminal.code}: ${terminal.message}`);
  if (terminal.sha256 && reply.text) {
    words.push((await sha256(reply.text)) === terminal.sha256 ? "checksum right" : "CHECKSUM WRONG");
  }
  reply.meta.textContent = words.filter(Boolean).join(" · ");
}

function numbers(begun, arrivals, whole) {
  if (arrivals.length === 0) return;
  const gaps = arrivals.slice(1).map((at, index) => at - arrivals[index]).sort((a, b) => a - b);
  const at = (share) => gaps[Math.min(gaps.length - 1, Math.floor(gaps.length * share))];
  const words = [`first token ${Math.round(arrivals[0] - begun)} ms`];
  if (gaps.length) words.push(`gaps p50 ${at(0.5).toFixed(1)} ms, p99 ${at(0.99).toFixed(1)} ms`);
  words.push(`${arrivals.length} chunks`);
  if (whole) words.push(`total ${Math.round(performance.now() - begun)} ms`);
  $("numbers").textContent = words.join(" · ");
}

function busy(on) {
  if (on) state("busy", "answering");
  $("send").disabled = on;
  $("stop").disabled = !on;
  $("cut").disabled = !on;
}

// -- sessions --------------------------------------------------------------------------------------------------------------

async function list() {
  const { sessions } = await api.sessions();
  $("sessions").replaceChildren(
    ...sessions.map((one) => {
      const button = make("button", { type: "button", text: `Session ${one.session_id.slice(0, 8)}` });
      button.append(make("small", {
        text: `${one.message_count} messages${one.running_turn_id ? " · answering" : ""} · ${new Date(one.created_at).toLocaleTimeString()}`,
      }));
      if (one.session_id === session) button.setAttribute("aria-current", "true");
      button.addEventListener("click", attempt(() => choose(one.session_id, true)));
      return make("li", {}, button);
    }),
  );
}

async function choose(id, draw) {
  session = id;
  $("where").textContent = id ? `session ${id}` : "a new session begins with your message";
  if (wire.join && id) await wire.join(id);
  if (!draw) return;
  $("messages").replaceChildren();
  bubbles.length = 0;
  seen.clear();
  $("numbers").textContent = "";
  if (id) {
    const { messages } = await api.messages(id);
    for (const message of messages) {
      if (message.status === "running") continue;
      seen.add(message.turn_id);
      const one = bubble(message.role);
      if (message.image_id) one.see(await api.image(message.image_id), false, "The picture");
      one.add(message.text);
      one.draw();
      if (message.role === "model" && message.status !== "completed") one.meta.textContent = message.status;
    }
  }
  await list();
}

/** Follow what other windows do in this session: on the WebSocket it is pushed; elsewhere look which turn runs, and read it. */
async function look() {
  if (session && !running && !wire.join && document.visibilityState === "visible") {
    try {
      const now = await api.session(session);
      const turn = now.running_turn_id ?? now.last_turn_id;
      if (turn && !seen.has(turn) && !running) await play(follow(() => wire.read(turn, 0), (id, after) => wire.read(id, after), turn));
    } catch (error) {
      if (error instanceof Refused && error.code === "session_not_found") await choose(null, true);
    }
  }
  setTimeout(look, LOOK_MS);
}

const others = new Map();
function other(event) {
  if (event.type === "turn_started") {
    if (seen.has(event.turn_id) || (event.session_id && event.session_id !== session)) return;
    seen.add(event.turn_id);
    const own = bubble("user");
    own.add(event.input);
    own.draw();
    const made = bubble("model");
    made.prompt = event.input;
    others.set(event.turn_id, made);
    return;
  }
  const reply = others.get(event.turn_id);
  if (!reply) return;
  if (event.type === "chunk") reply.add(event.text);
  else if (event.type.startsWith("image_")) reply.part(event);
  else if (TERMINAL.has(event.type)) {
    reply.draw();
    finish(reply, event);
    others.delete(event.turn_id);
    list();
  }
}

async function update(hint) {
  if (hint.update_type === "user_typing") $("typing").textContent = hint.typing ? "Someone is typing …" : "";
  if (hint.update_type === "session_cleared") await choose(session, true);
  if (hint.update_type === "session_deleted") await choose(null, true);
}

// -- what people press -----------------------------------------------------------------------------------------------------

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || running) return;
  $("text").value = "";
  typing(false);
  const key = requestKey();
  const own = bubble("user");
  own.add(text);
  own.draw();
  $("error").hidden = true;
  const ask = $("picture").checked
    ? () => wire.image({ prompt: text, size: "512x512", session_id: session }, key)
    : () => wire.chat({ message: text, session_id: session }, key);
  try {
    await play(follow(ask, (turnId, after) => wire.read(turnId, after)), { asked: text, key });
  } catch (error) {
    // Nothing is lost: what was typed comes back to be sent again.
    if (!seen.size || error instanceof Refused) $("text").value ||= text;
    complain(error);
  }
});

$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});

let typed = 0;
function typing(on) {
  clearTimeout(typed);
  if (!wire?.typing || !session) return;
  wire.typing(on);
  if (on) typed = setTimeout(() => typing(false), 2000);
}
$("text").addEventListener("input", () => typing(true));

$("stop").addEventListener("click", attempt(async () => {
  let turnId = running?.turnId;
  // A plain REST client does not know the turn before its reply; the session names it.
  if (!turnId && session) turnId = (await api.session(session)).running_turn_id;
  if (turnId) await api.cancel(turnId);
}));
$("cut").addEventListener("click", () => wire.cut());
$("new").addEventListener("click", attempt(async () => {
  const made = await api.createSession();
  await choose(made.session_id, true);
  $("text").focus();
}));
$("clear").addEventListener("click", attempt(async () => {
  if (session && confirm("Empty this session?")) {
    await api.clear(session);
    await choose(session, true);
  }
}));
$("delete").addEventListener("click", attempt(async () => {
  if (session && confirm("Delete this session?")) {
    await api.remove(session);
    await choose(null, true);
  }
}));
$("raw").addEventListener("change", () => bubbles.forEach((one) => one.draw()));
$("frames-toggle").addEventListener("click", () => {
  const open = $("drawer").hidden;
  $("drawer").hidden = !open;
  document.body.classList.toggle("with-drawer", open);
  $("frames-toggle").setAttribute("aria-expanded", String(open));
});
$("frames-clear").addEventListener("click", () => $("frames").replaceChildren());
$("keyform").addEventListener("submit", attempt(async (event) => {
  event.preventDefault();
  api.key = $("key").value;
  $("key").value = "";
  await begin();
  $("keyform").hidden = true;
}));

async function begin() {
  await list();
  await choose(session, true);
  state("good", "ready");
}

await attempt(async () => {
  const about = await api.about();
  const kind = WIRES[about.transport];
  const module = await import(`./wires/${kind}.js`);
  wire = new module.Wire(api, frame);
  wire.onOther = other;
  wire.onUpdate = update;
  $("title").textContent = module.title;
  $("note").textContent = `${module.note}. ${about.model} (${about.provider}).`;
  document.title = `${module.title} · GenAI chat`;
  look();
  await begin();
})();

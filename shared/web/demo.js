// The chat page, the same on the four HTTP servers; only the wire differs: the page uses the wire of the server that gave the page.

import { Api, Refused, requestKey } from "./api.js";
import { Bubble, seam } from "./bubble.js";
import { TERMINAL } from "./events.js";
import { follow } from "./follow.js";
import { $, gapsOf, make, quantile, settings, state } from "./page.js";
import { sha256 } from "./sha256.js";

const STATUS = {
  turn_completed: "", turn_failed: "failed", turn_cancelled: "stopped", turn_interrupted: "interrupted: the server went away",
};
const FRAMES_KEPT = 300;
const LOOK_MS = 1000;

const api = new Api();
let wire = null;
let session = null;
let unsent = null; // what may not have reached the server: sent again unchanged, it keeps its key and is paid for once
let bubbles = [];
let bytes = 0;
const answering = new Set(); // the turns that this window reads now
const seen = new Set(); // turns shown already, so that following the session shows none twice

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

/** Count a frame of the wire, and show it in the drawer when the drawer is open. */
function frame(direction, text, size) {
  bytes += size ?? text.length;
  $("bytes").textContent = `${bytes.toLocaleString()} characters of frames`;
  if ($("drawer").hidden) return;
  const shown = text.length > 1200 ? `${text.slice(0, 1200)}… (${text.length} in all)` : text;
  $("frames").append(make("li", { className: direction, text: shown }));
  while ($("frames").childElementCount > FRAMES_KEPT) $("frames").firstElementChild.remove();
  $("frames").scrollTop = $("frames").scrollHeight;
}

function bubble(role, text = "") {
  const made = new Bubble(role);
  bubbles.push(made);
  if (text) {
    made.add(text);
    made.draw();
  }
  return made;
}

/** Show one turn until its end. `asked` is the message of this window, which has a bubble already; null for another window's turn. */
async function show(items, asked = null) {
  const begun = performance.now();
  const turn = { id: null, arrivals: [], reply: null, terminal: null };
  answering.add(turn);
  busy();
  try {
    for await (const item of items) {
      add(turn, item, asked);
      if (item.type === "chunk") numbers(begun, turn.arrivals, false);
    }
    turn.reply?.draw();
    numbers(begun, turn.arrivals, true);
    if (turn.reply && turn.terminal) await finish(turn.reply, turn.terminal);
    state("good", "ready");
  } finally {
    answering.delete(turn);
    busy();
    list();
  }
}

function add(turn, item, asked) {
  switch (item.type) {
    case "turn_started":
      if (turn.reply) break;
      begin(turn, item);
      if (asked === null) bubble("user", item.input);
      turn.reply = bubble("model");
      turn.reply.prompt = item.input;
      break;
    case "chunk":
      turn.arrivals.push(performance.now());
      turn.reply.add(item.text);
      break;
    case "image_started":
    case "image_chunk":
      turn.reply.part(item);
      break;
    case "rewound":
      turn.arrivals = [];
      turn.reply?.clear();
      seam(`the store lost ${item.lostEvents} events that were shown; the answer above is what is kept`);
      break;
    case "lost":
      state("bad", `line lost after event ${item.after}`);
      seam(`line lost after event ${item.after}: ${item.why}`);
      break;
    case "resumed":
      state("busy", "answering");
      seam(`back after ${Math.round(item.ms)} ms${item.native ? " (by the browser itself)" : ""}`
        + (item.after ? ` at event ${item.after}: nothing lost, nothing twice` : ", from the first event"));
      break;
    case "reply":
      begin(turn, item);
      turn.reply = bubble("model");
      turn.arrivals.push(performance.now());
      if (item.bytes) turn.reply.see(new Blob([item.bytes], { type: item.mime_type }), false, asked ?? "");
      else turn.reply.add(item.text);
      turn.terminal = { type: "turn_completed", sha256: item.text === undefined ? null : item.sha256, status: item.status };
      break;
    default:
      if (TERMINAL.has(item.type)) turn.terminal = item;
  }
}

/** The turn is known now; a message that was sent outside a session has made one. */
function begin(turn, item) {
  turn.id = item.turn_id;
  seen.add(item.turn_id);
  if (session === null && item.session_id) choose(item.session_id, false).catch(complain);
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
  const gaps = gapsOf(arrivals);
  const words = [`first token ${Math.round(arrivals[0] - begun)} ms`];
  if (gaps.length) words.push(`gaps p50 ${quantile(gaps, 0.5).toFixed(1)} ms, p99 ${quantile(gaps, 0.99).toFixed(1)} ms`);
  words.push(`${arrivals.length} chunks`);
  if (whole) words.push(`total ${Math.round(performance.now() - begun)} ms`);
  $("numbers").textContent = words.join(" · ");
}

function busy() {
  const on = answering.size > 0;
  if (on) state("busy", "answering");
  $("send").disabled = on;
  $("stop").disabled = !on;
  $("cut").disabled = !on;
}

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
  const joined = wire.join ? await wire.join(id) : null;
  if (draw) await drawMessages();
  if (joined) readOther(joined.running_turn_id);
  if (draw) await list();
}

async function drawMessages() {
  $("messages").replaceChildren();
  bubbles = [];
  seen.clear();
  $("numbers").textContent = "";
  if (session === null) return;
  const { messages } = await api.messages(session);
  for (const message of messages) {
    if (message.status === "running") continue;
    seen.add(message.turn_id);
    const one = bubble(message.role, message.text);
    if (message.image_id) one.see(await api.image(message.image_id), false, "The picture");
    if (message.role === "model" && message.status !== "completed") one.meta.textContent = message.status;
  }
}

/** Show a turn that another window started, from its first event. */
function readOther(turnId) {
  if (!turnId || seen.has(turnId)) return null;
  seen.add(turnId);
  return show(follow(wire, () => wire.read(turnId, 0), turnId)).catch(complain);
}

/** Follow what other windows do in this session where nothing is pushed: look which turn runs, and read it. */
async function look() {
  if (session && answering.size === 0 && document.visibilityState === "visible") {
    try {
      const now = await api.session(session);
      if (answering.size === 0) await readOther(now.running_turn_id ?? now.last_turn_id);
    } catch (error) {
      if (error instanceof Refused && error.code === "session_not_found") await choose(null, true);
    }
  }
  setTimeout(look, LOOK_MS);
}

/** On the WebSocket the turns of other windows are pushed; this connects them with the page. */
function subscribe() {
  wire.onTurn = (events) => show(follow(wire, () => events)).catch(complain);
  wire.onUpdate = attempt(async (hint) => {
    if (hint.update_type === "user_typing") $("typing").textContent = hint.typing ? "Someone is typing …" : "";
    if (hint.update_type === "session_cleared") await drawMessages();
    if (hint.update_type === "session_deleted") await choose(null, true);
  });
  wire.onAway = (error) => {
    if (error instanceof Refused) complain(error);
    else if (answering.size === 0) state("bad", `line lost: ${error.message}`);
  };
  wire.onJoined = attempt(async (joined) => {
    // A join replays nothing, so what was said meanwhile is read from the session.
    const { messages } = await api.messages(session);
    if (answering.size === 0 && messages.some((one) => one.status !== "running" && !seen.has(one.turn_id))) await drawMessages();
    if (answering.size === 0) state("good", "ready");
    readOther(joined.running_turn_id);
  });
}

$("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value;
  if (!text.trim() || answering.size > 0) return;
  $("text").value = "";
  typing(false);
  const picture = $("picture").checked;
  const again = unsent?.text === text && unsent.picture === picture && unsent.session === session;
  const key = again ? unsent.key : requestKey();
  unsent = { text, picture, session, key };
  bubble("user", text);
  $("error").hidden = true;
  const ask = picture
    ? () => wire.image({ prompt: text, size: "512x512", session_id: unsent.session }, key)
    : () => wire.chat({ message: text, session_id: unsent.session }, key);
  try {
    await show(follow(wire, ask), text);
    unsent = null;
  } catch (error) {
    // The text returns to the input field, to be sent again.
    $("text").value ||= text;
    if (error instanceof Refused) unsent = null;
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
  let turnId = [...answering][0]?.id;
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
  await start();
  $("keyform").hidden = true;
}));

async function start() {
  await list();
  await choose(session, true);
  state("good", "ready");
}

await attempt(async () => {
  const [about, here] = await Promise.all([api.about(), settings()]);
  api.heartbeatS = here.heartbeat_s;
  $("cut").hidden = !here.cut;
  const module = await import(`./wires/${here.transport}.js`);
  wire = new module.Wire(api, frame);
  $("title").textContent = module.title;
  $("note").textContent = `${module.note}. ${about.model} (${about.provider}).`;
  document.title = `${module.title} · GenAI chat`;
  if (wire.join) subscribe();
  else look();
  await start();
})();

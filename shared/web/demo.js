// The chat page, the same on the four HTTP servers; only the wire differs: the page uses the wire of the server that gave the page.
// No server of pages speaks gRPC, so ?wire=grpc-web makes the page use the gRPC server's port for pages, for everything it asks.

import { Api, Refused, requestKey } from "./api.js";
import { Bubble, isAtEnd, seam, toEnd } from "./bubble.js";
import { TERMINAL } from "./events.js";
import { follow } from "./follow.js";
import { $, gapsOf, make, neighbours, quantile, settings, SHORT, state, thinking } from "./page.js";
import { bytesOf, partsOf } from "./parts.js";
import { sha256 } from "./sha256.js";

/** How a turn ended, in the same words on every wire, while it is read and when the session is read again. */
const ENDED = { completed: "", failed: "failed", cancelled: "stopped", interrupted: "interrupted: the rest was not generated" };
const SUGGESTIONS = [
  { text: "My name is Ada." },
  { text: "What is my name?" },
  { text: "Show me some code, please." },
  { text: "A lighthouse at dusk", picture: true },
  { text: "/tokens 300 A long answer: cut the line, or press Stop" },
];
/** The name of the session in the page's address. */
const WHERE = "session";
/** The name in the page's address of a wire to another server than the page's own. */
const WIRE = "wire";
const GRPC_WEB = "grpc-web";
const FRAMES_KEPT = 300;
const LOOK_MS = 1000;

let api = new Api();
let wire = null;
let word = ""; // the word of the wire
let note = ""; // what the wire does, in a sentence
let here = null; // what this server says of itself
let others = []; // the ways of this machine to have this page
let session = null;
let lastSent = "";
let choosing = 0; // while a session is being drawn, nothing of it is read beside
let unsent = null; // what may not have reached the server: sent again unchanged, it keeps its key and is paid for once
let bubbles = [];
let bytes = 0;
const frames = []; // the newest frames, also while the drawer is closed
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

/** A frame of the wire for the drawer: the text, the fields and the framing in colours of their own, base64 folded. */
function frame(direction, text, size) {
  bytes += size ?? bytesOf(text);
  $("bytes").textContent = `${bytes.toLocaleString("en")} bytes in frames`;
  frames.push([direction, text]);
  if (frames.length > FRAMES_KEPT) frames.shift();
  if (!$("drawer").hidden) showFrame(direction, text);
}

function showFrame(direction, text) {
  const item = make("li", { className: direction });
  for (const [kind, part] of partsOf(text)) {
    if (kind === "base64") {
      const folded = make("summary", { text: `${part.length.toLocaleString("en")} characters of base64` });
      item.append(make("details", { className: "part-base64" }, folded, part));
    } else item.append(make("span", { className: `part-${kind}`, text: part }));
  }
  $("frames").append(item);
  while ($("frames").childElementCount > FRAMES_KEPT) $("frames").firstElementChild.remove();
  $("frames").scrollTop = $("frames").scrollHeight;
}

function bubble(role, text = "") {
  $("welcome").hidden = true;
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
  const turn = { id: null, arrivals: [], reply: null, terminal: null, thought: () => {} };
  answering.add(turn);
  busy();
  try {
    for await (const item of items) {
      add(turn, item, asked);
      if (item.type === "chunk") numbers(begun, turn.arrivals, false);
    }
    turn.reply?.draw();
    numbers(begun, turn.arrivals, true, turn.reply?.picture);
    if (turn.reply && turn.terminal) await finish(turn.reply, turn.terminal);
    state("good", "ready");
  } finally {
    turn.thought();
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
      turn.reply.wanted = item.kind;
      break;
    case "thinking":
      turn.thought = thinking((words) => { turn.reply.meta.textContent = words; });
      break;
    case "chunk":
      if (turn.arrivals.length === 0) {
        turn.thought();
        turn.reply.meta.textContent = "";
      }
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
      seam(`the store lost ${item.lostEvents === 1 ? "1 event that was" : `${item.lostEvents} events that were`} shown; the answer above is what is kept`);
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
      turn.reply.prompt = asked ?? "";
      turn.arrivals.push(performance.now());
      if (item.bytes) turn.reply.see(new Blob([item.bytes], { type: item.mime_type }), false, asked ?? "");
      else turn.reply.add(item.text);
      turn.terminal = { status: item.status ?? "completed", sha256: item.text === undefined ? null : item.sha256 };
      break;
    default:
      if (!TERMINAL.has(item.type)) break;
      turn.thought();
      turn.terminal = { ...item, status: item.type.slice("turn_".length) };
  }
}

/** The turn is known now; a message that was sent outside a session has made one. */
function begin(turn, item) {
  turn.id = item.turn_id;
  seen.add(item.turn_id);
  if (session === null && item.session_id) choose(item.session_id, false).catch(complain);
}

async function finish(reply, terminal) {
  const words = [ENDED[terminal.status] ?? terminal.status];
  if (terminal.status === "failed" && terminal.code) words.push(`${terminal.code}: ${terminal.message}`);
  if (terminal.sha256 && reply.text) {
    words.push((await sha256(reply.text)) === terminal.sha256 ? "checksum OK" : "CHECKSUM WRONG");
  }
  const atEnd = isAtEnd();
  reply.meta.textContent = words.filter(Boolean).join(" · ");
  if (terminal.status !== "completed" && reply.prompt) offerAgain(reply);
  if (atEnd) toEnd();
}

/** A button below an answer that is not whole: the rest is generated only when the user asks again. */
function offerAgain(reply) {
  const again = make("button", { type: "button", text: "Ask again" });
  again.addEventListener("click", () => send(reply.prompt, reply.wanted === "image"));
  reply.meta.append(again);
}

function numbers(begun, arrivals, whole, picture = null) {
  if (arrivals.length === 0 && !picture) return;
  const gaps = gapsOf(arrivals);
  const words = [];
  if (picture) words.push("picture");
  else words.push(`first token ${Math.round(arrivals[0] - begun)} ms`);
  if (gaps.length) words.push(`gaps p50 ${quantile(gaps, 0.5).toFixed(1)} ms, p99 ${quantile(gaps, 0.99).toFixed(1)} ms`);
  if (!picture) words.push(arrivals.length === 1 ? "1 chunk" : `${arrivals.length} chunks`);
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
      const button = make("button", { type: "button" }, make("span", { text: one.title || "No message yet", title: one.session_id }));
      const counted = one.message_count === 1 ? "1 message" : `${one.message_count} messages`;
      button.append(make("small", { text: `${counted}${one.running_turn_id ? " · answering" : ""} · ${moment(one.last_activity_at)}` }));
      if (one.session_id === session) button.setAttribute("aria-current", "true");
      button.addEventListener("click", attempt(async () => {
        openSessions(false);
        await choose(one.session_id, true);
      }));
      return make("li", {}, button);
    }),
  );
}

/** A time of today without its date. */
function moment(at) {
  const then = new Date(at);
  return then.toDateString() === new Date().toDateString() ? then.toLocaleTimeString() : then.toLocaleDateString();
}

/** The same page over the other wires that run, in the same session. */
function linkTransports() {
  $("transports").replaceChildren(...others.map((other) => {
    const address = new URL("/demo", location);
    if (session) address.searchParams.set(WHERE, session);
    if (other.word === GRPC_WEB) address.searchParams.set(WIRE, GRPC_WEB);
    else address.port = other.port;
    const link = make("a", { href: address, text: SHORT[other.word] ?? other.title, title: other.title });
    if (other.word === word) link.setAttribute("aria-current", "page");
    return link;
  }));
}

async function choose(id, draw) {
  choosing++;
  try {
    await enter(id, draw);
  } finally {
    choosing--;
  }
}

async function enter(id, draw) {
  session = id;
  $("where").textContent = id ? `session ${id}` : "a new session begins with your message";
  const address = new URL(location);
  if (id) address.searchParams.set(WHERE, id);
  else address.searchParams.delete(WHERE);
  history.replaceState(null, "", address);
  linkTransports();
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
  $("welcome").hidden = session !== null;
  if (session === null) return;
  const { messages } = await api.messages(session);
  $("welcome").hidden = messages.length > 0;
  let prompt = "";
  for (const message of messages) {
    if (message.role === "user") prompt = message.text;
    if (message.status === "running") continue;
    seen.add(message.turn_id);
    const one = bubble(message.role, message.text);
    if (message.image_id) one.see(await api.image(message.image_id), false, prompt);
    if (message.role === "model" && message.status !== "completed") {
      one.prompt = prompt;
      one.meta.textContent = ENDED[message.status] ?? message.status;
      if (message === messages.at(-1)) offerAgain(one);
    }
    if (message.truncated) one.meta.prepend("cut at 3 MiB: the turn's log has the whole text ");
  }
  toEnd();
}

/** Show a turn that another window started, from its first event. */
function readOther(turnId) {
  if (!turnId || seen.has(turnId)) return null;
  seen.add(turnId);
  return show(follow(wire, () => wire.read(turnId, 0), turnId)).catch(complain);
}

/** Follow what other windows do in this session where nothing is pushed: look which turn runs, and read it. */
async function look() {
  if (session && choosing === 0 && answering.size === 0 && document.visibilityState === "visible") {
    try {
      const now = await api.session(session);
      if (choosing === 0 && answering.size === 0) await readOther(now.running_turn_id ?? now.last_turn_id);
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

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send($("text").value, $("picture").checked);
});

async function send(text, picture) {
  if (!text.trim() || answering.size > 0) return;
  $("text").value = "";
  lastSent = text;
  typing(false);
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
}

$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
  if (event.key === "ArrowUp" && $("text").value === "" && lastSent) {
    event.preventDefault();
    $("text").value = lastSent;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (document.body.classList.contains("with-sessions")) openSessions(false);
  else if (!$("stop").disabled) $("stop").click();
  else if (!$("drawer").hidden) openFrames(false);
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
  openSessions(false);
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
function openFrames(open) {
  const atEnd = isAtEnd();
  $("drawer").hidden = !open;
  $("frames").replaceChildren();
  if (open) for (const [direction, text] of frames) showFrame(direction, text);
  document.body.classList.toggle("with-drawer", open);
  // Beside the drawer the messages are narrower and taller.
  if (atEnd) toEnd();
  $("frames-toggle").setAttribute("aria-expanded", String(open));
}

function openSessions(open) {
  document.body.classList.toggle("with-sessions", open);
  $("sessions-toggle").setAttribute("aria-expanded", String(open));
}

$("frames-toggle").addEventListener("click", () => openFrames($("drawer").hidden));
$("frames-close").addEventListener("click", () => openFrames(false));
$("sessions-toggle").addEventListener("click", () => openSessions(!document.body.classList.contains("with-sessions")));
$("scrim").addEventListener("click", () => {
  openSessions(false);
  openFrames(false);
});
for (const { text, picture } of SUGGESTIONS) {
  const button = make("button", { type: "button", text: picture ? `Draw: ${text}` : text });
  button.addEventListener("click", () => send(text, picture ?? false));
  $("suggestions").append(button);
}
$("frames-clear").addEventListener("click", () => {
  frames.length = 0;
  $("frames").replaceChildren();
});
$("keyform").addEventListener("submit", attempt(async (event) => {
  event.preventDefault();
  api.key = $("key").value;
  $("key").value = "";
  await start();
  $("keyform").hidden = true;
}));

async function start() {
  choosing++;
  try {
    const about = await api.about();
    $("note").textContent = `${note}. ${about.model} (${about.provider}).`;
    await list();
    await choose(session, true);
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== "session_not_found") throw error;
    // The session of the address is gone; the page begins a new one.
    await choose(null, true);
  } finally {
    choosing--;
  }
  state("good", "ready");
  // On a telephone the keyboard would cover the page.
  if (matchMedia("(hover: hover)").matches) $("text").focus();
}

await attempt(async () => {
  const [settled, servers] = await Promise.all([settings(), neighbours()]);
  here = settled;
  others = servers.filter((one) => (one.scheme === "http" || one.word === GRPC_WEB) && (one.up || one.word === here.transport));
  $("together").hidden = others.length < 2;
  $("alone").hidden = others.length > 1;
  const asked = new URLSearchParams(location.search);
  session = asked.get(WHERE);
  $("cut").hidden = !here.cut;
  word = asked.get(WIRE) === GRPC_WEB ? GRPC_WEB : here.transport;
  const module = await import(`./wires/${word.replace("-", "_")}.js`);
  if (word === GRPC_WEB) {
    const there = others.find((one) => one.word === GRPC_WEB);
    if (!there) throw new Error("The gRPC server does not answer pages. Start it with: python -m protocols serve grpc");
    api = new module.Api(`${location.protocol}//${location.hostname}:${there.port}`);
  }
  api.heartbeatS = here.heartbeat_s;
  wire = new module.Wire(api, frame);
  $("title").textContent = module.title;
  $("welcome-transport").textContent = module.title;
  note = module.note;
  document.title = `${module.title} · GenAI chat`;
  if (wire.join) subscribe();
  else look();
  await start();
})();

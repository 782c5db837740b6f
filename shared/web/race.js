// The race: one prompt over the five transports at once (REST twice), each by its own wire module; all numbers are of arrivals in this page.

import { Refused, requestKey } from "./api.js";
import { $, copies, make, neighbours, said, settings, state } from "./page.js";
import { chart, png } from "./race_chart.js";
import { Lane } from "./race_lane.js";
import { packed, unpacked, verdict } from "./race_run.js";

/** The lanes from top to bottom: a wire module each, and the server it talks to. */
const LANES = [
  { word: "rest", server: "rest", module: "rest" },
  { word: "rest-poll", server: "rest", module: "rest_poll" },
  { word: "ndjson", server: "ndjson", module: "ndjson" },
  { word: "sse", server: "sse", module: "sse" },
  { word: "websocket", server: "websocket", module: "websocket" },
  { word: "grpc-web", server: "grpc-web", module: "grpc_web" },
];
/** The lines that a run can go over: the name of the relay, the words on the button, and what the relay does. */
const PATHS = [
  ["", "Straight", "Straight to the servers, over loopback."],
  ["phone", "Slow phone", "Through a relay: 100 ms each way, 480 kbit/s, one packet in a hundred 0.3 s late."],
  ["proxy", "Buffering proxy", "Through a relay that holds an answer back until 8 KiB are there or 0.8 s have passed. It passes WebSocket frames on at once, as nginx does."],
  ["stalls", "Stalls", "Through a relay that loses one packet in forty: everything behind it waits for a second, as on a train."],
];
const DRAW_MS = 100;

const here = await settings();
let lanes = [];
let servers = [];
let run = null;
let racing = false;

const chosen = () => document.querySelector("#paths input:checked")?.value ?? "";

async function look() {
  servers = await neighbours();
  for (const lane of lanes) {
    const there = servers.find((one) => one.word === lane.server);
    lane.up = there?.up ?? false;
    lane.ports = { "": there?.port, ...there?.relays };
  }
}

/** The buttons for the lines whose relays run before every server that has a lane. */
function offerPaths() {
  const names = PATHS.map(([name]) => name).filter((name) => lanes.every((lane) => !lane.up || lane.ports[name] !== undefined));
  const before = chosen();
  $("paths").replaceChildren($("paths").querySelector("legend"), ...PATHS.filter(([name]) => names.includes(name)).map(([name, words, what]) => {
    const radio = make("input", { type: "radio", name: "path", value: name });
    radio.checked = name === (names.includes(before) ? before : "");
    radio.addEventListener("change", () => { $("path-note").textContent = what; });
    return make("label", { title: what }, radio, words);
  }));
  $("paths").hidden = names.length < 2;
  $("path-note").textContent = names.length < 2
    ? "Slow phone, buffering proxy and stalls as buttons: python -m compare page starts the five servers with them."
    : PATHS.find(([name]) => name === chosen())[2];
}

/** The rows with the names of their lanes. A link has the words alone. */
function named(some) {
  return some.map((row) => {
    const { title = row.word, label = row.word } = lanes.find((lane) => lane.word === row.word) ?? {};
    return { ...row, title, label };
  });
}

function rows() {
  return lanes.map(({ word, arrivals, cuts, end, right }) => ({ word, arrivals, cuts, end, same: right === true }));
}

function draw(shown = run?.rows ?? rows()) {
  $("chart").replaceChildren(chart(named(shown), Math.max(280, $("chart").clientWidth)));
}

function conclude(path, prompt) {
  run = { prompt, path, rows: rows() };
  $("verdict").textContent = verdict(named(run.rows).filter((row) => row.arrivals.length || row.end !== null));
  for (const id of ["link", "image"]) $(id).disabled = false;
  draw();
}

$("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (racing) return;
  racing = true;
  $("error").hidden = true;
  $("go").disabled = true;
  try {
    await look();
    offerPaths();
    const path = chosen();
    const up = lanes.filter((lane) => lane.up);
    for (const lane of lanes) if (!lane.up) lane.say("status", "not running");
    if (up.length === 0) throw new Error("No server answers. Start them all with: python -m protocols serve all");
    await race(up, path);
  } catch (error) {
    $("error").hidden = false;
    $("error").textContent = error.message;
  } finally {
    racing = false;
    $("go").disabled = false;
    $("cut").disabled = true;
  }
});

async function race(up, path) {
  run = null;
  const order = shuffled(up);
  $("order").textContent = `started in this order: ${order.map((lane) => lane.label).join(", ")}`;
  $("verdict").textContent = "Racing …";
  $("cut").disabled = false;
  state("busy", "racing");
  const prompt = $("prompt").value;
  const begun = performance.now();
  const drawing = setInterval(draw, DRAW_MS);
  await Promise.all(order.map((lane) => {
    const api = lane.api(path);
    api.key = $("key").value;
    return lane.race(prompt, api, begun);
  }));
  clearInterval(drawing);
  if (up.some((lane) => lane.refused?.code === "unauthenticated")) $("keyform").hidden = false;
  conclude(path, prompt);
  state("good", "ready");
}

function shuffled(items) {
  const mixed = [...items];
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

$("cut").addEventListener("click", () => lanes.forEach((lane) => lane.wire?.cut()));

copies($("link"), () => `${location.origin}${location.pathname}#${packed(run)}`);
$("image").addEventListener("click", async () => {
  const picture = png(named(run.rows), $("verdict").textContent, $("chart"));
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]);
    said($("image"), "Copied");
  } catch {
    // No clipboard for pictures here: the picture is saved instead.
    const address = URL.createObjectURL(await picture);
    make("a", { href: address, download: "race.png" }).click();
    URL.revokeObjectURL(address);
    said($("image"), "Saved");
  }
});

$("seventh").addEventListener("click", async () => {
  $("seventh").disabled = true;
  const result = $("seventh-result");
  try {
    await look();
    const count = { sse: 0, websocket: 0 };
    const show = (done) => {
      result.textContent = `EventSource: ${count.sse} of 7 opened${done && count.sse < 7 ? "; the others wait for one of the six to close" : ""}. `
        + `WebSocket: ${count.websocket} of 7 opened.`;
    };
    const [sse, socket] = ["sse", "websocket"].map((word) => lanes.find((lane) => lane.word === word));
    if (!sse.up || !socket.up) throw new Error("The Server-Sent Events and the WebSocket server must run: python -m protocols serve all");
    // A slow turn keeps the streams open while they are counted.
    const api = sse.api();
    const turn = await api.startTurn({ message: "/slow 6 /tokens 20 hello" }, requestKey());
    const sources = Array.from({ length: 7 }, () => new EventSource(`${api.base}/turns/${turn.turn_id}/stream`));
    for (const source of sources) source.addEventListener("turn_started", () => { count.sse++; show(false); });
    const sockets = Array.from({ length: 7 }, () => new WebSocket(`${socket.api().base.replace(/^http/, "ws")}/ws`, "genai.chat.v1"));
    for (const one of sockets) one.addEventListener("message", () => { count.websocket++; show(false); }, { once: true });
    await new Promise((resolve) => setTimeout(resolve, 2500));
    show(true);
    for (const one of [...sources, ...sockets]) one.close();
    // The sources that waited for a place would hold it; closing them set them free, so this can go through.
    await api.cancel(turn.turn_id);
  } catch (error) {
    result.textContent = error instanceof Refused ? `${error.code}: ${error.message}` : String(error.message || error);
  } finally {
    $("seventh").disabled = false;
  }
});

$("cut").hidden = !here.cut;
lanes = await Promise.all(LANES.map(async ({ word, server, module }) => {
  const lane = new Lane(word, await import(`./wires/${module}.js`), {}, here.heartbeat_s);
  lane.server = server;
  return lane;
}));
$("lanes").append(...lanes.map((lane) => lane.element));
await look();
offerPaths();
const there = lanes.filter((lane) => lane.up).length;
state(there === lanes.length ? "good" : "bad", `${there} of ${lanes.length} lanes have a server`);
for (const lane of lanes) lane.say("status", lane.up ? "ready" : "not running");
for (const id of ["go", "seventh"]) $(id).disabled = false;

run = unpacked(location.hash);
if (run) {
  $("prompt").value = run.prompt;
  $("verdict").textContent = `${verdict(named(run.rows).filter((row) => row.arrivals.length || row.end !== null))} (A recorded run, from the link.)`;
  for (const id of ["link", "image"]) $(id).disabled = false;
}
draw();
new ResizeObserver(() => draw()).observe($("chart"));

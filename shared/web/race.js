// The race: one prompt over the five transports at once (REST twice), each by its own wire module; all numbers are of arrivals in this page.

import { Api, Refused, requestKey } from "./api.js";
import { TERMINAL } from "./events.js";
import { follow } from "./follow.js";
import { $, gapsOf, make, quantile, settings, state } from "./page.js";
import { sha256 } from "./sha256.js";

const WORDS = ["rest", "rest-poll", "ndjson", "sse", "websocket", "grpc-web"];
const SERVER = { "rest-poll": "rest" };
const SVG = "http://www.w3.org/2000/svg";

const here = await settings();
let lanes = [];

class Lane {
  constructor(word, module, port, relayPort) {
    this.word = word;
    this.title = module.title;
    this.port = port;
    this.relayPort = relayPort;
    this.module = module;
    this.values = {};
    this.arrivals = [];
    this.cuts = [];
    this.end = null;
    const rows = ["state", "first token", "gap p50", "gap p99", "total", "chunks", "lost lines"].flatMap((name) => {
      this.values[name] = make("dd", { text: "–" });
      return [make("dt", { text: name }), this.values[name]];
    });
    this.text = make("pre", { tabindex: "0", "aria-label": `The reply over ${module.title}` });
    this.element = make("article", { className: "lane", "data-word": word }, make("h3", { text: module.title }), this.text, make("dl", {}, ...rows));
    $("lanes").append(this.element);
  }

  say(name, words) { this.values[name].textContent = words; }

  async reachable(throughRelay) {
    const port = throughRelay ? this.relayPort : this.port;
    this.api = new Api(`${location.protocol}//${location.hostname}:${port}`);
    this.api.heartbeatS = here.heartbeat_s;
    try {
      await this.api.json("GET", "/health");
      return true;
    } catch {
      return false;
    }
  }

  async race(prompt, begun) {
    this.arrivals = [];
    this.cuts = [];
    this.reply = "";
    this.end = null;
    this.sha = null;
    this.text.textContent = "";
    for (const name of Object.keys(this.values)) this.say(name, "–");
    this.say("state", "asking");
    this.wire = new this.module.Wire(this.api, () => {});
    const key = requestKey();
    const ask = () => this.wire.chat({ message: prompt, session_id: null }, key);
    try {
      for await (const item of follow(this.wire, ask)) {
        const at = performance.now() - begun;
        if (item.type === "chunk" || item.type === "reply") {
          if (item.text) this.arrivals.push(at);
          this.reply += item.text;
          this.text.append(item.text);
          this.text.scrollTop = this.text.scrollHeight;
          this.say("state", "streaming");
          if (item.type === "reply") this.sha = item.sha256;
        }
        if (item.type === "rewound") {
          this.arrivals = [];
          this.reply = "";
          this.text.textContent = "";
          this.say("state", `the store lost ${item.lostEvents} events`);
        }
        if (item.type === "lost") { this.cuts.push(at); this.say("state", `lost at event ${item.after}: ${item.why}`); }
        if (item.type === "resumed") this.say("state", `back after ${Math.round(item.ms)} ms`);
        if (TERMINAL.has(item.type)) this.sha = item.sha256;
        this.count();
      }
      this.end = performance.now() - begun;
      this.right = this.sha !== null && this.sha === (await sha256(this.reply));
      this.say("total", `${Math.round(this.end)} ms`);
      this.say("state", this.right ? "whole, checksum right" : "CHECKSUM WRONG");
    } catch (error) {
      this.say("state", error instanceof Refused ? `${error.code}: ${error.message}` : `failed: ${error.message}`);
      if (error instanceof Refused && error.code === "unauthenticated") $("keyform").hidden = false;
    } finally {
      this.wire.close();
    }
  }

  get gaps() { return gapsOf(this.arrivals); }

  count() {
    if (this.arrivals.length === 0) return;
    const gaps = this.gaps;
    const at = (share) => (gaps.length ? `${quantile(gaps, share).toFixed(1)} ms` : "–");
    this.say("first token", `${Math.round(this.arrivals[0])} ms`);
    this.say("gap p50", at(0.5));
    this.say("gap p99", at(0.99));
    this.say("chunks", String(this.arrivals.length));
    this.say("lost lines", String(this.cuts.length));
  }
}

function shuffled(items) {
  const mixed = [...items];
  for (let i = mixed.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
  }
  return mixed;
}

function draw(running) {
  const chart = $("chart");
  const longest = Math.max(1000, ...running.flatMap((lane) => [lane.end ?? 0, ...lane.arrivals, ...lane.cuts]));
  const x = (ms) => 130 + (ms / longest) * 850;
  const node = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const parts = [];
  WORDS.forEach((word, row) => {
    const y = 30 + row * 40;
    parts.push(node("text", { x: 10, y: y + 5 }, word), node("line", { class: "axis", x1: 130, x2: 980, y1: y, y2: y }));
    const lane = running.find((one) => one.word === word);
    for (const at of lane?.arrivals ?? []) parts.push(node("rect", { class: word, x: x(at) - 1, y: y - 11, width: 2.5, height: 22 }));
    for (const at of lane?.cuts ?? []) parts.push(node("line", { class: "cut", x1: x(at), x2: x(at), y1: y - 18, y2: y + 18 }));
  });
  for (let step = 0; step <= 5; step++) {
    const ms = (longest * step) / 5;
    parts.push(node("text", { x: x(ms) - 18, y: 262 }, `${(ms / 1000).toFixed(2)} s`));
  }
  chart.replaceChildren(...parts);
}

function verdict(running) {
  const whole = running.filter((lane) => lane.end !== null);
  if (whole.length < 2) return "Fewer than two lanes came to their end: nothing to compare.";
  const texts = new Set(whole.map((lane) => lane.reply));
  const lines = [
    texts.size === 1
      ? `All ${whole.length} lanes brought the same text, character for character.`
      : "The lanes brought DIFFERENT texts: something is wrong.",
  ];
  const streaming = whole.filter((lane) => lane.arrivals.length > 1);
  const rest = whole.find((lane) => lane.word === "rest");
  if (rest && streaming.length) {
    lines.push(`REST showed nothing before ${Math.round(rest.arrivals[0])} ms: its first token is its whole reply.`);
  }
  if (streaming.length > 1) {
    const firsts = streaming.map((lane) => lane.arrivals[0]);
    const spread = Math.max(...firsts) - Math.min(...firsts);
    const gap = Math.max(...streaming.map((lane) => lane.gaps[Math.floor(lane.gaps.length / 2)]));
    lines.push(
      spread <= gap
        ? `No difference found among the streaming lanes: their first tokens lie ${spread.toFixed(0)} ms apart, less than one gap between tokens (${gap.toFixed(0)} ms).`
        : `The streaming lanes' first tokens lie ${spread.toFixed(0)} ms apart; one run in one page says no more than that. Race again, or use python -m compare for intervals.`,
    );
  }
  const cut = whole.filter((lane) => lane.cuts.length);
  if (cut.length) lines.push(`Lost lines: ${cut.map((lane) => `${lane.word} ${lane.cuts.length}`).join(", ")}; nothing lost, nothing twice (the checksums say so).`);
  return lines.join("\n");
}

$("start").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("error").hidden = true;
  $("go").disabled = true;
  const throughRelay = $("slow").checked;
  const up = [];
  for (const lane of lanes) {
    if (await lane.reachable(throughRelay)) up.push(lane);
    else lane.say("state", throughRelay ? "no relay here" : "not running");
    lane.api.key = $("key").value;
  }
  $("slow-note").hidden = !throughRelay || up.length > 0;
  $("slow-note").textContent = "The slow network is a real one, made by the relay: start it with python -m compare relay --all --network mobile";
  if (up.length === 0) {
    $("go").disabled = false;
    if (!throughRelay) {
      $("error").hidden = false;
      $("error").textContent = "No server answers. Start them all with: python -m protocols serve all";
    }
    return;
  }
  const order = shuffled(up);
  $("order").textContent = `started in this order: ${order.map((lane) => lane.word).join(", ")}`;
  $("cut").disabled = false;
  state("busy", "racing");
  const begun = performance.now();
  const drawing = setInterval(() => draw(up), 200);
  await Promise.all(order.map((lane) => lane.race($("prompt").value, begun)));
  clearInterval(drawing);
  draw(up);
  $("verdict").textContent = verdict(up);
  $("go").disabled = false;
  $("cut").disabled = true;
  state("good", "ready");
});

$("cut").addEventListener("click", () => lanes.forEach((lane) => lane.wire?.cut()));

$("seventh").addEventListener("click", async () => {
  $("seventh").disabled = true;
  const result = $("seventh-result");
  try {
    const count = { sse: 0, websocket: 0 };
    const show = (done) => {
      result.textContent = `EventSource: ${count.sse} of 7 opened${done && count.sse < 7 ? "; the others wait for one of the six to close" : ""}. `
        + `WebSocket: ${count.websocket} of 7 opened.`;
    };
    const sse = lanes.find((lane) => lane.word === "sse");
    const socket = lanes.find((lane) => lane.word === "websocket");
    if (!(await sse.reachable(0)) || !(await socket.reachable(0))) throw new Error("the SSE and the WebSocket server must run");
    // A slow turn keeps the streams open while they are counted.
    const turn = await sse.api.startTurn({ message: "/slow 6 /tokens 20 hello" }, requestKey());
    const sources = Array.from({ length: 7 }, () => new EventSource(`${sse.api.base}/turns/${turn.turn_id}/stream`));
    for (const source of sources) source.addEventListener("turn_started", () => { count.sse++; show(false); });
    const sockets = Array.from({ length: 7 }, () => new WebSocket(`${socket.api.base.replace(/^http/, "ws")}/ws`, "genai.chat.v1"));
    for (const one of sockets) one.addEventListener("message", () => { count.websocket++; show(false); }, { once: true });
    await new Promise((resolve) => setTimeout(resolve, 2500));
    show(true);
    for (const one of [...sources, ...sockets]) one.close();
    // The sources that waited for a place would hold it; closing them set them free, so this can go through.
    await sse.api.cancel(turn.turn_id);
  } catch (error) {
    result.textContent = String(error.message || error);
  } finally {
    $("seventh").disabled = false;
  }
});

$("cut").hidden = !here.cut;
lanes = await Promise.all(WORDS.map(async (word) => {
  const server = SERVER[word] ?? word;
  return new Lane(word, await import(`./wires/${word.replace("-", "_")}.js`), here.ports[server], here.relays[server]);
}));
WORDS.forEach((word) => $("lanes").append(lanes.find((lane) => lane.word === word).element));
draw([]);
const running = (await Promise.all(lanes.map((lane) => lane.reachable(false)))).filter(Boolean).length;
lanes.forEach((lane) => lane.say("state", "ready"));
state(running === WORDS.length ? "good" : "bad", `${running} of ${WORDS.length} lanes have a server`);

// One lane of the race: a wire module, the reply as it comes, when each chunk came, and the bytes by what they are for.

import { Api, Refused, requestKey } from "./api.js";
import { TERMINAL } from "./events.js";
import { follow } from "./follow.js";
import { show } from "./markdown.js";
import { gapsOf, make, quantile, SHORT, thinking } from "./page.js";
import { countParts } from "./parts.js";
import { sha256 } from "./sha256.js";

const SVG = "http://www.w3.org/2000/svg";
const KINDS = ["text", "fields", "framing"];

export class Lane {
  /** `module`: the wire's module. `ports`: the server's port under "", and those of the relays before it by their names. */
  constructor(word, module, ports, heartbeatS) {
    this.word = word;
    this.title = module.title;
    this.label = SHORT[word] ?? module.title;
    this.ports = ports;
    this.module = module;
    this.heartbeatS = heartbeatS;
    this.arrivals = [];
    this.cuts = [];
    this.end = null;
    this.thought = () => {}; // ends the count of the seconds for which the model thinks
    this.values = {};
    const rows = ["status", "first token", "gap p50", "gap p99", "total", "chunks", "cuts"].flatMap((name) => {
      this.values[name] = make("dd", { text: "–", className: name });
      return [make("dt", { text: name }), this.values[name]];
    });
    this.reply_ = make("div", { className: "reply", role: "region", tabindex: "0", "aria-label": `The reply over ${this.title}` });
    this.bar = document.createElementNS(SVG, "svg");
    this.bar.setAttribute("aria-hidden", "true");
    this.bar.setAttribute("viewBox", "0 0 100 10");
    this.bar.setAttribute("preserveAspectRatio", "none");
    this.key = make("p", { className: "key" });
    this.element = make(
      "article", { className: "lane", "data-word": word, "aria-label": this.title },
      make("h2", { text: this.label, title: this.title }), this.reply_, make("dl", {}, ...rows), make("div", {}, this.bar, this.key),
    );
    this.#clear();
  }

  say(name, words) { this.values[name].textContent = words; }

  /** An Api of this lane's server, through the relay of this name where one is given. */
  api(relay = "") {
    const api = new Api(`${location.protocol}//${location.hostname}:${this.ports[relay]}`);
    api.heartbeatS = this.heartbeatS;
    return api;
  }

  #clear() {
    this.arrivals = [];
    this.cuts = [];
    this.text = "";
    this.end = null;
    this.sha = null;
    this.right = null;
    this.bytes = { text: 0, fields: 0, framing: 0 };
    this.reply_.replaceChildren();
    for (const name of Object.keys(this.values)) this.say(name, "–");
    this.#count();
  }

  /** Ask, and read to the end. `begun`: when the race began, by performance.now(). */
  async race(prompt, api, begun) {
    this.#clear();
    this.say("status", "asking");
    this.wire = new this.module.Wire(api, (direction, frame, size) => { if (direction === "down") this.#weigh(frame, size); });
    const key = requestKey();
    try {
      for await (const item of follow(this.wire, () => this.wire.chat({ message: prompt, session_id: null }, key))) {
        this.thought();
        this.#add(item, performance.now() - begun);
      }
      this.end = performance.now() - begun;
      this.right = this.sha !== null && this.sha === (await sha256(this.text));
      this.say("total", `${Math.round(this.end)} ms`);
      this.say("status", this.right ? "complete, checksum OK" : "CHECKSUM WRONG");
    } catch (error) {
      this.refused = error instanceof Refused ? error : null;
      this.say("status", error instanceof Refused ? `${error.code}: ${error.message}` : `failed: ${error.message}`);
    } finally {
      this.thought();
      this.wire.close();
      this.#draw();
    }
  }

  #add(item, at) {
    if (item.type === "thinking") this.thought = thinking((words) => this.say("status", words));
    if (item.type === "chunk" || item.type === "reply") {
      if (item.text) this.arrivals.push(at);
      this.text += item.text;
      this.drawing ??= requestAnimationFrame(() => this.#draw());
      this.say("status", "streaming");
      if (item.type === "reply") this.sha = item.sha256;
    }
    if (item.type === "lost") { this.cuts.push(at); this.say("status", `lost at event ${item.after}: ${item.why}`); }
    if (item.type === "rewound") {
      this.arrivals = [];
      this.text = "";
      this.say("status", `the store lost ${item.lostEvents} events`);
    }
    if (item.type === "resumed") this.say("status", `back after ${Math.round(item.ms)} ms`);
    if (TERMINAL.has(item.type)) this.sha = item.sha256;
    this.#numbers();
  }

  #draw() {
    this.drawing = null;
    show(this.reply_, this.text);
    this.reply_.scrollTop = this.reply_.scrollHeight;
  }

  #weigh(frame, size) {
    const count = countParts(this.word, frame, size);
    for (const kind of KINDS) this.bytes[kind] += count[kind];
    this.counting ??= requestAnimationFrame(() => this.#count());
  }

  #count() {
    this.counting = null;
    const all = KINDS.reduce((sum, kind) => sum + this.bytes[kind], 0);
    let x = 0;
    this.bar.replaceChildren(...KINDS.map((kind) => {
      const width = all ? (100 * this.bytes[kind]) / all : 0;
      const rect = document.createElementNS(SVG, "rect");
      for (const [name, value] of Object.entries({ class: kind, x, y: 0, width, height: 10 })) rect.setAttribute(name, value);
      x += width;
      return rect;
    }));
    this.key.textContent = all
      ? `${all.toLocaleString("en")} bytes: text ${this.bytes.text.toLocaleString("en")}, fields ${this.bytes.fields.toLocaleString("en")}, framing ${this.bytes.framing.toLocaleString("en")}`
      : "bytes: text, fields, framing";
  }

  get gaps() { return gapsOf(this.arrivals); }

  #numbers() {
    if (this.arrivals.length === 0) return;
    const gaps = this.gaps;
    const at = (share) => (gaps.length ? `${quantile(gaps, share).toFixed(1)} ms` : "–");
    this.say("first token", `${Math.round(this.arrivals[0])} ms`);
    this.say("gap p50", at(0.5));
    this.say("gap p99", at(0.99));
    this.say("chunks", String(this.arrivals.length));
    this.say("cuts", String(this.cuts.length));
  }
}

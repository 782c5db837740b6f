// The page that a browser gets at /: what this is, the five servers of this machine, and a command for each.

import { Api } from "./api.js";
import { show } from "./guide.js";
import { $, copies, make, neighbours, settings } from "./page.js";

const LOOK_MS = 3000;
const JSON_TYPE = "-H 'Content-Type: application/json'";
const HELLO = `-d '{"message": "hello"}'`;
const KEY = "-H \"Authorization: Bearer $API_SECRET_KEY\" ";
const IS_TLS = location.protocol === "https:";
const web = `${IS_TLS ? '--cacert "$TLS_CA" ' : ""}${location.protocol}//`;
const HANDSHAKE = "-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=='";

/** What stands on the card of a transport: what it is for, and a command that shows its bytes. `key` is an option, or empty. */
const CARDS = {
  rest: ["One request, one whole reply.", (at, key) => `curl ${key}${JSON_TYPE} ${HELLO} ${web}${at}/chat`],
  ndjson: ["One JSON event a line, as the tokens come.", (at, key) => `curl -N ${key}${JSON_TYPE} ${HELLO} ${web}${at}/chat/stream`],
  sse: ["Events that a browser's EventSource reads, and resumes by itself.", (at, key) => `curl -N ${key}${JSON_TYPE} ${HELLO} ${web}${at}/chat/stream`],
  websocket: [
    "One connection, both ways, many turns. The command shows the handshake and the first frame.",
    (at, key) => `curl -iN -m 2 --http1.1 ${key}${HANDSHAKE} ${web}${at}/ws`,
  ],
  grpc: [
    "A typed contract on HTTP/2. curl does not speak it; grpcurl does.",
    (at, key) => `grpcurl ${IS_TLS ? '-cacert "$TLS_CA"' : "-plaintext"} ${key}-d '{"message": "hello"}' ${at} chat.ChatService/SendMessage`,
  ],
};
const OTHER = ["One more transport.", (at) => `curl ${web}${at}/`];

const here = await settings();
const titles = {}; // of the transports, by their words

function card({ word, title, scheme, port, up }) {
  const at = `${location.hostname}:${port}`;
  const [what, command] = CARDS[word] ?? OTHER;
  const state = make("span", {}, make("span", { className: `dot ${up ? "good" : "bad"}`, "aria-hidden": "true" }), up ? "running" : "not running");
  const text = command(at, here.cut ? "" : KEY);
  const copy = make("button", { type: "button", text: "Copy", "aria-label": `Copy the command for ${title}` });
  copies(copy, () => text);
  const links = make("div", { className: "links" });
  if (scheme === "http" && up) {
    for (const [path, name] of [["demo", "Chat"], ["race", "Race"], ["docs", "API"]]) {
      links.append(make("a", { href: `${location.protocol}//${at}/${path}`, text: name, "aria-label": `${name} over ${title}` }));
    }
  } else {
    links.append(make("code", { text: up ? `python -m protocols chat ${word}` : `python -m protocols serve ${word}` }));
  }
  links.append(copy);
  const port_ = make("p", { className: "quiet", text: at });
  return make(
    "li", { className: "card", "data-word": word },
    make("h3", {}, make("b", { text: title }), state), make("p", { text: what }), port_, make("code", { className: "command", text }), links,
  );
}

async function look() {
  const servers = (await neighbours()).filter((one) => one.word === one.of);
  for (const { word, title } of servers) titles[word] = title;
  const shown = JSON.stringify(servers);
  if (shown !== look.shown) {
    $("cards").replaceChildren(...servers.map(card));
    $("missing").hidden = servers.every((one) => one.up);
    look.shown = shown;
  }
}

async function keepLooking() {
  try {
    if (document.visibilityState === "visible") await look();
  } catch {
    // This server has gone: the dots say so, and the page looks again.
    for (const dot of document.querySelectorAll(".card .dot")) dot.className = "dot bad";
    look.shown = "";
  }
  setTimeout(keepLooking, LOOK_MS);
}

await keepLooking();
show(await (await fetch("/web/guide.json")).json(), $("needs"), $("answer"), ["tokens", "browser"], make);
try {
  const about = await new Api().about();
  // The hint names the models that are offline, and how to get real ones.
  const models = about.hint || `chat: ${about.model} (${about.provider}), pictures: ${about.image_model} (${about.image_provider})`;
  $("about").textContent = `This is the ${titles[about.transport] ?? about.transport} server. ${models[0].toUpperCase()}${models.slice(1)}.`;
} catch {
  $("about").textContent = "This server did not answer; reload the page.";
}

// What the pages need: the elements by name, an element made in one call, the state in the head, the numbers of arrivals.

export const $ = (id) => document.getElementById(id);

export function make(tag, { text, className, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** `kind` is good, busy or bad. */
export function state(kind, words) {
  $("dot").className = `dot ${kind}`;
  $("state").textContent = words;
}

/** Count the seconds for which the model thinks, from now until the returned function is called; `tell(words)` shows them. */
export function thinking(tell) {
  const begun = performance.now();
  const count = () => tell(`thinking, ${Math.round((performance.now() - begun) / 1000)} s`);
  count();
  const timer = setInterval(count, 1000);
  return () => clearInterval(timer);
}

/** The gaps between arrivals, sorted, in milliseconds. */
export function gapsOf(arrivals) {
  return arrivals.slice(1).map((at, index) => at - arrivals[index]).sort((a, b) => a - b);
}

/** The value below which `share` of the sorted values lie; undefined without values. */
export function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** This server's transport, the ports of the HTTP servers of this machine, `heartbeat_s`, and whether the cut button works. */
export async function settings() {
  return (await fetch("/web/page.json")).json();
}

/** Shorter names than the wires' titles, for charts and narrow rows, by the word of a lane. */
export const SHORT = { "rest-poll": "long-polling", sse: "SSE", "grpc-web": "gRPC-Web" };

/** The servers of this machine, with the relays before them that run: `{word, title, scheme, port, up, relays}` each. */
export async function neighbours() {
  return (await (await fetch("/web/servers.json", { cache: "no-store" })).json()).servers;
}

/** A click on `button` copies what `text()` gives, and the button says so for a moment. */
export function copies(button, text) {
  button.addEventListener("click", async () => {
    try {
      await copy(text());
      said(button, "Copied");
    } catch {
      said(button, "Not allowed");
    }
  });
}

const SAID_MS = 1500;

/** Show other words on a button for a moment; a button without words of its own shows them by its style. */
export function said(button, words) {
  const before = button.dataset.words ?? button.textContent;
  button.dataset.words = before;
  if (before) button.textContent = words;
  button.dataset.said = words;
  clearTimeout(button.saidTimer);
  button.saidTimer = setTimeout(() => {
    if (before) button.textContent = before;
    delete button.dataset.said;
  }, SAID_MS);
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // On plain HTTP under a name there is no clipboard for scripts, but a selection can be copied.
  const box = make("textarea", { className: "visually-hidden", "aria-hidden": "true" });
  box.value = text;
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  if (!copied) throw new Error("copying is not allowed here");
}

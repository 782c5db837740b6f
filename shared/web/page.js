// What both pages need: the elements by name, an element made in one call, the state in the head, the numbers of arrivals.

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

/** The gaps between arrivals, sorted, in milliseconds. */
export function gapsOf(arrivals) {
  return arrivals.slice(1).map((at, index) => at - arrivals[index]).sort((a, b) => a - b);
}

/** The value below which `share` of the sorted values lie; undefined without values. */
export function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

/** This server's transport, its neighbours' ports and relays, `heartbeat_s`, and whether the cut button works. */
export async function settings() {
  return (await fetch("/web/page.json")).json();
}

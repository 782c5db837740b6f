// Code in a reply: colours by a small scanner for the common shapes of many languages, and a button that copies it.

import { copies, make } from "./page.js";

const KEYWORDS = new Set((
  "and as assert async await auto bool break case catch char class const continue def default del do double elif else enum except export extends "
  + "False finally float fn for from func function global go if impl import in int interface is lambda let long match mut namespace new nil None "
  + "nonlocal not null or package pass print private protected pub public raise return self short static struct super switch this throw trait "
  + "True true false try type typeof undefined unsigned use using var void while with yield SELECT FROM WHERE INSERT UPDATE DELETE"
).split(" "));
const TOKEN = /(#[^\n]*|\/\/[^\n]*|\/\*[\s\S]*?\*\/)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;
const LONGEST = 50_000;

/** Colour the code blocks in `element` and give each a button. The text of a block stays exactly what was said. */
export function dress(element) {
  for (const code of element.querySelectorAll("pre > code")) {
    const text = code.textContent;
    if (text.length <= LONGEST) code.replaceChildren(...coloured(text));
    // The words on the button are its style's, so that they are no part of the text around it.
    const button = make("button", { type: "button", className: "copy", "aria-label": "Copy the code" });
    copies(button, () => text);
    code.parentElement.append(button);
  }
}

function coloured(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    const kind = match[1] ? "comment" : match[2] ? "string" : match[3] ? "number" : KEYWORDS.has(match[4]) ? "keyword" : "";
    if (!kind) continue;
    parts.push(text.slice(at, match.index), make("span", { className: kind, text: match[0] }));
    at = match.index + match[0].length;
  }
  return [...parts, text.slice(at)];
}

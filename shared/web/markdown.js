// A model's Markdown as DOM: rendered by markdown-it with raw HTML off, then sanitised by DOMPurify. Nothing else makes markup here.

import { dress } from "./code.js";
import DOMPurify from "./vendor/purify.es.mjs";
import MarkdownIt from "./vendor/markdown-it.esm.min.mjs";

const markdown = new MarkdownIt({ html: false, linkify: false, breaks: false });
// A picture in a reply would be a request to a stranger's server; the policy refuses it anyway.
markdown.disable(["image"]);

const ALLOWED = {
  RETURN_DOM_FRAGMENT: true,
  ALLOWED_TAGS: [
    "p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li",
    "table", "thead", "tbody", "tr", "th", "td", "a",
  ],
  ALLOWED_ATTR: ["href", "title", "start"],
};

/** Show a text as Markdown in an element; `textContent` of code blocks stays exactly what was said. */
export function show(element, text) {
  const fragment = DOMPurify.sanitize(markdown.render(text), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.rel = "noopener noreferrer nofollow";
    link.target = "_blank";
  }
  dress(fragment);
  element.classList.add("markdown");
  element.replaceChildren(fragment);
}

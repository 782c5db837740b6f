// The API documentation: Swagger UI on this server's /openapi.json, with what its markup lacks for keyboards and screen readers.

const LABELS = {
  "textarea.body-param__text": "Request body",
  ".curl-command textarea": "The request as a curl command",
  ".copy-to-clipboard button": "Copy",
  ".close-modal": "Close",
};
// Swagger UI goes from h1 to h3. Each level is one higher here; the list of schemas is a part of the page, as the tags are.
const LEVELS = { h3: 2, h4: 3, h5: 4, "section.models > h4": 2 };
const dark = matchMedia("(prefers-color-scheme: dark)");
const api = document.querySelector("#api");

/** Swagger UI draws parts of the page again after each click, so each change is looked at. */
function complete() {
  for (const [selector, label] of Object.entries(LABELS)) {
    for (const element of api.querySelectorAll(`${selector}:not([aria-label])`)) element.setAttribute("aria-label", label);
  }
  for (const [selector, level] of Object.entries(LEVELS)) {
    for (const element of api.querySelectorAll(selector)) element.ariaLevel = level;
  }
  for (const table of api.querySelectorAll(".responses-table[role=region]:not([aria-label])")) {
    const summary = table.closest(".opblock").querySelector(".opblock-summary");
    const [method, path] = [".opblock-summary-method", ".opblock-summary-path"].map((part) => summary.querySelector(part).textContent);
    table.ariaLabel = `Responses to ${method} ${path}`;
  }
  for (const element of api.querySelectorAll(".microlight:not([tabindex])")) element.tabIndex = 0;
  // The label of this button does not have the word that the button shows.
  for (const element of api.querySelectorAll(".auth-btn-wrapper button[aria-label]")) element.removeAttribute("aria-label");
}

/** Swagger UI has a dark page of its own, which a class of the document shows. */
function colour() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

colour();
dark.addEventListener("change", colour);
new MutationObserver(complete).observe(api, { childList: true, subtree: true });
SwaggerUIBundle({
  domNode: api,
  url: "/openapi.json",
  // With deep links, each operation is a button with a link inside, which a keyboard cannot reach.
  deepLinking: false,
  // The colours of the highlighted code are too pale to read.
  syntaxHighlight: false,
});

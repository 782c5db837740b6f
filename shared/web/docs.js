// The API documentation: Swagger UI on this server's /openapi.json, with what its markup lacks for keyboards and screen readers.

const LABELS = {
  "textarea.body-param__text": "Request body",
  ".curl-command textarea": "The request as a curl command",
  ".copy-to-clipboard button": "Copy",
  ".close-modal": "Close",
};
const api = document.querySelector("#api");

/** Swagger UI draws parts of the page again after each click, so each change is looked at. */
function complete() {
  for (const [selector, label] of Object.entries(LABELS)) {
    for (const element of api.querySelectorAll(`${selector}:not([aria-label])`)) element.setAttribute("aria-label", label);
  }
  for (const element of api.querySelectorAll(".microlight:not([tabindex])")) element.tabIndex = 0;
  // The label of this button does not have the word that the button shows.
  for (const element of api.querySelectorAll(".auth-btn-wrapper button[aria-label]")) element.removeAttribute("aria-label");
}

new MutationObserver(complete).observe(api, { childList: true, subtree: true });
SwaggerUIBundle({
  domNode: api,
  url: "/openapi.json",
  // With deep links, each operation is a button with a link inside, which a keyboard cannot reach.
  deepLinking: false,
  // The colours of the highlighted code are too pale to read.
  syntaxHighlight: false,
});

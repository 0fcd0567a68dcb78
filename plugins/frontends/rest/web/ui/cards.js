/** Cards that stand under a message: what went wrong, what was found, what can be done. */

import { button, count, h } from "./dom.js";
import { copied } from "./message.js";
import { panelStyles } from "./dom.js";

const TITLES = { 401: "A key is needed", 413: "The request is too large", 429: "The server is busy", 503: "The server is busy" };

export function failureCard(failure, view) {
  if (failure.code === "context_length") return overflowPlace(failure, view);
  const title = failure.name === "ServerGone" ? "The server does not answer" : (TITLES[failure.status] ?? failure.message);
  const rows = [["asked", title === failure.message ? "" : failure.message], ["found", failure.found], ["try", failure.hint], ["field", failure.param]];
  const copy = button("Copy details", () => copied(copy, JSON.stringify(failure, null, 2)), { className: "small bordered" });
  const partial = Boolean(view.message.text);
  if (failure.param) import("./drawer.js").then(({ showFieldError }) => showFieldError(failure)).catch(() => {});
  return h("div", { class: "card error", role: "group", "aria-label": "Error" },
    h("strong", { text: title }),
    h("dl", {}, ...rows.filter(([, text]) => text).flatMap(([name, text]) => [h("dt", { text: name }), h("dd", { text })])),
    h("div", { class: "buttons" },
      partial && button("Continue", () => view.actions.continue(view.message), { className: "small bordered" }),
      button("Retry", () => (partial ? view.actions.regenerate(view.message) : view.actions.retry(view.message)), { className: "small bordered" }),
      !partial && button("Edit the message", () => view.actions.editQuestion(view.message), { className: "small bordered" }),
      copy));
}

/** The prompt is too long: three ways out, from their own module. */
function overflowPlace(failure, view) {
  const place = h("div", { class: "card warn", role: "group", "aria-label": "The conversation does not fit" },
    h("strong", { text: failure.message }), h("p", { class: "muted", text: failure.found || "" }));
  panelStyles();
  import("./overflow.js").then(({ waysOut }) => waysOut(place, view)).catch(() => {});
  return place;
}

/** An answer that filled the context: what makes room for more of it. */
export function fullCard(view) {
  const { prompt_tokens: read = 0, completion_tokens: written = 0 } = view.message.usage ?? {};
  const place = h("div", { class: "card warn", role: "group", "aria-label": "The context is full" }, h("strong", { text: "The context is full" }),
    h("p", { class: "muted", text: read ? `The conversation has ${count(read + written)} tokens, ${count(written)} of them in this answer.` : "" }));
  panelStyles();
  import("./overflow.js").then(({ waysOut }) => waysOut(place, view)).catch(() => {});
  return place;
}

/** While the server is too busy: when it is asked again, with *Retry now* and *Cancel*. */
export function busyCard(run) {
  const text = h("span");
  const card = h("div", { class: "card warn", role: "group", "aria-label": "The server is busy" }, text,
    h("div", { class: "buttons" }, button("Retry now", () => run.retryNow(), { className: "small bordered" }),
      button("Cancel", () => run.stop(), { className: "small bordered" })));
  const draw = () => {
    const { phase, until, error, tries } = run.state.value;
    if (phase !== "busy" || !card.isConnected) return clearInterval(timer);
    const wait = Math.max(0, Math.ceil((until - Date.now()) / 1000));
    text.textContent = `${error.message}${error.found ? ` (${error.found})` : ""}. Trying again in ${wait} s, attempt ${tries} of 5.`;
  };
  const timer = setInterval(draw, 500);
  queueMicrotask(draw);
  return card;
}

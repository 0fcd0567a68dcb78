/** "Try it": sends what the reader wrote to the server and shows what comes back, as it comes. */

import { apiKey } from "./api.js";
import { button, h, seconds } from "./dom.js";

const MOST_SHOWN = 200_000;

/** The box for one operation. `operation`: {method, path, parameters, body}. */
export function tryBox({ method, path, parameters, body }) {
  const fields = parameters.map((parameter) => {
    const input = h("input", { type: "text", spellcheck: "false", autocomplete: "off" });
    return { parameter, input, label: h("label", {}, h("span", { text: parameter.name }), input) };
  });
  const text = body === undefined ? null : h("textarea", { spellcheck: "false", "aria-label": "Body, as JSON", rows: Math.min(14, lines(body)) });
  if (text) text.value = JSON.stringify(body, null, 2);
  const output = h("pre", { class: "output", hidden: true, tabindex: "0", "aria-label": "The server's answer" });
  const line = h("p", { class: "try-state", role: "status" });
  let running = null;
  const send = button("Send", () => (running ? running.abort() : start()), { className: "primary" });
  const start = async () => {
    running = new AbortController();
    send.lastChild.textContent = "Stop";
    await run({ method, url: fill(path, fields), text: text?.value, output, line, signal: running.signal });
    running = null;
    send.lastChild.textContent = "Send";
  };
  return h("div", { class: "try" }, fields.map(({ label }) => label), text, h("div", { class: "row" }, send, line), output);
}

const lines = (body) => JSON.stringify(body, null, 2).split("\n").length + 1;

/** The path with its parameters put in; those that are empty stay out of the query. */
function fill(path, fields) {
  const query = new URLSearchParams();
  let url = path.slice(1);
  for (const { parameter, input } of fields) {
    if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value) query.set(parameter.name, input.value);
  }
  return query.size ? `${url}?${query}` : url;
}

async function run({ method, url, text, output, line, signal }) {
  output.hidden = true;
  output.textContent = "";
  line.textContent = "Waiting…";
  const began = performance.now();
  const took = () => seconds(performance.now() - began);
  const headers = apiKey.get() ? { Authorization: `Bearer ${apiKey.get()}` } : {};
  if (text !== undefined) headers["Content-Type"] = "application/json";
  try {
    const response = await fetch(url, { method, headers, body: text, signal, cache: "no-store" });
    line.textContent = `${response.status} ${response.statusText}, ${took()}`;
    await show(response, output);
    const ignored = response.headers.get("X-Ignored-Fields");
    line.textContent = `${response.status} ${response.statusText}, ${took()}${ignored ? `; ignored: ${ignored}` : ""}`;
  } catch (error) {
    line.textContent = signal.aborted ? `Stopped after ${took()}` : "The server does not answer";
  }
}

/** JSON is laid out; a stream is shown as it arrives. */
async function show(response, output) {
  output.hidden = false;
  const type = response.headers.get("Content-Type") ?? "";
  if (type.startsWith("application/json")) {
    const text = await response.text();
    output.textContent = cut(pretty(text));
    return;
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let size = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    if (size < MOST_SHOWN) output.append(value);
    size += value.length;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

const cut = (text) => (text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}\n… ${text.length - MOST_SHOWN} more characters` : text);

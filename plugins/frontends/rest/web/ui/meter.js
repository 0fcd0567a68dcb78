/** How full the context is: the server's own numbers, and an estimate for what is being written. */

import { onRun, runs } from "./answer.js";
import { postJson } from "./api.js";
import { openPopover } from "./dialog.js";
import { byId, count, h } from "./dom.js";
import { current, path, server } from "./state.js";
import { seenBy } from "./answer.js";

const CHARS_A_TOKEN = 3.6; // until the model's own vocabulary has been seen at work
const LONG_ENOUGH = 40; // characters from which on a count says something of other texts
const MOST_COUNTED = 20;
const COUNT_MS = 400;
const MESSAGE_TOKENS = 4; // of the template, around each
const WARN = 0.8;
const FULL = 0.95;

let draft = { text: "", tokens: 0, exact: true };
let timer = 0;
let charsAToken = CHARS_A_TOKEN;
const counted = new Map(); // tokens of texts that the server has counted, the latest last

export const estimate = (text) => counted.get(text) ?? Math.ceil(text.length / charsAToken);

function learn(text, tokens) {
  counted.delete(text);
  counted.set(text, tokens);
  if (counted.size > MOST_COUNTED) counted.delete(counted.keys().next().value);
  if (text.length >= LONG_ENOUGH && tokens) charsAToken = Math.min(20, Math.max(0.25, text.length / tokens));
}

/** Tokens of the conversation by part. `used` is what the server counted at the last answer, where there is one. */
export function contextUse(doc) {
  const { conv } = doc;
  const run = runs.get(conv.id);
  const messages = conv.kind === "chat" ? seenBy(conv, path(doc)) : [];
  const at = messages.findLastIndex(({ usage, edited }) => usage && !edited);
  const known = at >= 0 ? messages[at].usage : null;
  const total = known ? (known.prompt_tokens ?? 0) + (known.completion_tokens ?? 0) : 0;
  const rest = messages.slice(at + 1).reduce((sum, { text }) => sum + estimate(text) + MESSAGE_TOKENS, 0);
  const text = conv.kind === "notebook" ? (conv.tokens ?? estimate(conv.text ?? "")) : 0;
  const system = conv.system ? estimate(conv.system) : 0;
  const read = run?.promptTokens; // of the answer that is being made: what the server reads, and what it wrote
  const used = read ? read + run.tokens : known ? total + rest : rest + system + text;
  const wanted = conv.params.max_tokens > 0 ? conv.params.max_tokens : 0;
  return { used, system, draft: draft.tokens, exactDraft: draft.exact, answer: wanted, cached: known?.prompt_tokens_details?.cached_tokens ?? 0, exact: Boolean(read) || (Boolean(known) && !rest) };
}

/** Brings the bar at the top up to date. */
export function drawMeter() {
  const { doc } = current.value;
  const nCtx = nContext(doc);
  const place = byId("context");
  place.hidden = !doc || !nCtx;
  if (place.hidden) return;
  const { used, draft: written } = contextUse(doc);
  const share = Math.min(1, (used + written) / nCtx);
  byId("context-meter").value = share;
  const level = share >= FULL ? "full" : share >= WARN ? "warn" : "";
  place.dataset.level = level;
  byId("context-text").textContent = `${Math.round(share * 100)} %${level === "full" ? " full" : level === "warn" ? " nearly full" : ""}`;
  place.title = `${count(used + written)} of ${count(nCtx)} tokens of context`;
}

const nContext = (doc) => doc?.conv.nCtx ?? server.value.props?.n_ctx ?? 0;

/** Counts the draft: roughly at once, exactly when the typing pauses, or what was pasted at once. */
export function countDraft(text, wait = COUNT_MS) {
  draft = { text, tokens: text ? estimate(text) : 0, exact: !text || counted.has(text) };
  drawMeter();
  clearTimeout(timer);
  if (draft.exact) return;
  timer = setTimeout(async () => {
    try {
      const { tokens } = await postJson("tokenize", { content: text });
      learn(text, tokens.length);
      if (draft.text === text) draft = { text, tokens: tokens.length, exact: true };
      drawMeter();
    } catch {
      // The estimate stands.
    }
  }, wait);
}

export function showContext(opener) {
  const { doc } = current.value;
  const { used, system, draft: written, exactDraft, answer, cached, exact } = contextUse(doc);
  const nCtx = nContext(doc);
  const row = (name, value, about = "") => value > 0 && h("tr", {}, h("th", { scope: "row", text: name }),
    h("td", { text: `${about}${count(value)}` }), h("td", {}, h("meter", { min: 0, max: nCtx, value, "aria-label": name })));
  return openPopover(opener, "Context", h("div", {},
    h("p", {}, h("strong", { text: `${exact ? "" : "≈ "}${count(used + written)} of ${count(nCtx)} tokens` })),
    h("table", { class: "parts" }, h("tbody", {}, row("System prompt", system, "≈ "), row(doc.conv.kind === "notebook" ? "Text" : "Conversation", Math.max(0, used - system), exact ? "" : "≈ "),
      row("This message", written, exactDraft ? "" : "≈ "), row("Kept for the answer", answer), row("Cached on the server", cached)))), { className: "context" });
}

const box = byId("message");
box.addEventListener("input", ({ inputType }) => countDraft(box.value, inputType === "insertFromPaste" ? 0 : COUNT_MS));
let drawn = 0;
onRun((name, run) => {
  drawMeter();
  if (name === "began") run.onText(() => performance.now() - drawn > COUNT_MS && ((drawn = performance.now()), drawMeter()));
});
server.subscribe(drawMeter);
current.subscribe(({ doc }, patch) => {
  if (patch?.patch === undefined) countDraft(doc?.conv.kind === "chat" ? box.value : "");
  else drawMeter();
});
countDraft(box.value, 0); // what was there before this module

/** Free text that the model continues: no template, undo by runs, fill in at the cursor. */

import { Run, onRun, runs } from "./answer.js";
import { postJson } from "./api.js";
import { button, byId, count, h, panelStyles, submits, tokens as written } from "./dom.js";
import { fillInspector } from "./probs.js";
import { current, saveConv, server, settings, titleOf } from "./state.js";
import { everyFrame } from "./pin.js";
import { describe, say, toast } from "./status.js";
import { get, newId } from "./store.js";
import { notebookRequest } from "./wire.js";

const SAVE_MS = 1000;
const COUNT_MS = 600;
const MOST_RUNS = 50;

const EXAMPLES = ["Once upon a time, there was a little fox", "The three most important things about the sea are", "Dear younger self,\n\n"];

let doc = null;
let parts = null;
let saveTimer = 0;
let countTimer = 0;

/** Shows a notebook; the parts are made once. */
export async function openNotebook(next) {
  await panelStyles();
  if (doc && doc !== next) await save();
  parts ??= build();
  doc = next;
  parts.text.value = doc.conv.text ?? "";
  showTokens(false);
  refresh();
  countTokens();
  const run = runs.get(doc.conv.id);
  if (run) attach(run);
  if (current.value.doc === doc) parts.text.focus({ preventScroll: true });
}

function build() {
  const text = h("textarea", { class: "page-text", "aria-label": "Text", dir: "auto", placeholder: "Write the beginning; the model goes on from its end." });
  const tokens = h("button", { type: "button", class: "small", "aria-pressed": "false", text: "Show tokens", on: { click: () => showTokens(parts.mirror.hidden) } });
  const mirror = h("div", { class: "mirror", hidden: true, role: "region", "aria-label": "Text with its runs", tabindex: "-1" });
  const counter = h("span", { class: "muted number" });
  const problem = h("div", { class: "cards" });
  const examples = h("div", { class: "example-row", role: "group", "aria-label": "Beginnings" }, ...EXAMPLES.map((words) => button(words.trim(), () => {
    text.value = words;
    text.dispatchEvent(new Event("input"));
    text.focus();
  }, { className: "small bordered" })));
  const go = button("Generate", () => generate(), { iconName: "play", className: "primary" });
  const stop = button("Stop", () => runs.get(doc.conv.id)?.stop(), { iconName: "stop", className: "bordered" });
  const undo = button("Undo last run", () => undoRun(), { iconName: "undo", className: "small bordered" });
  const redo = button("Redo with new seed", () => redoRun(), { iconName: "redo", className: "small bordered" });
  const insert = button("Insert at cursor", () => generate({ insert: true }), { iconName: "insert", className: "small bordered" });
  byId("notebook").replaceChildren(h("div", { class: "notebook-head measure" }, h("span", { class: "muted", text: "Raw text to the model. No template is applied." }), tokens),
    h("div", { class: "notebook-body measure" }, text, mirror, examples, problem), h("div", { class: "notebook-tools measure", role: "group", "aria-label": "Notebook" }, go, stop, undo, redo, insert, counter));
  text.addEventListener("input", () => {
    saveTimer ||= setTimeout(save, SAVE_MS);
    countTokens();
    refresh();
  });
  text.addEventListener("keydown", (event) => {
    if (!submits(event, false)) return;
    event.preventDefault();
    generate();
  });
  for (const type of ["wheel", "keydown", "pointerdown"]) text.addEventListener(type, () => (parts.follow = false), { passive: true });
  for (const type of ["pagehide", "visibilitychange"]) addEventListener(type, save);
  onRun((name, run) => run.doc === doc && doc.conv.kind === "notebook" && (name === "ended" ? ended(run) : refresh()));
  server.subscribe(() => doc && refresh());
  return { text, tokens, mirror, counter, problem, examples, go, stop, undo, redo, insert, follow: true };
}

function refresh() {
  const busy = runs.has(doc.conv.id);
  const { text, go, stop, undo, redo, insert } = parts;
  text.readOnly = busy;
  parts.examples.hidden = busy || Boolean(text.value);
  go.hidden = busy;
  stop.hidden = !busy;
  undo.disabled = redo.disabled = busy || !doc.conv.runs?.length;
  insert.hidden = !server.value.props?.infill;
  insert.disabled = busy;
}

async function save(more = {}) {
  clearTimeout(saveTimer);
  saveTimer = 0;
  if (!doc || (doc.conv.unsaved && !parts.text.value)) return;
  if (parts.text.value === doc.conv.text && !more.runs && !doc.conv.unsaved) return;
  const title = doc.conv.title || titleOf(parts.text.value);
  await saveConv(doc, { ...(more.type ? {} : more), text: parts.text.value, title }, { touch: true });
}

function countTokens() {
  clearTimeout(countTimer);
  const here = doc;
  const { value } = parts.text;
  parts.counter.textContent = value ? `≈ ${count(Math.ceil(value.length / 3.6))} tokens` : "";
  if (!value) return;
  countTimer = setTimeout(async () => {
    try {
      const { tokens } = await postJson("tokenize", { content: value });
      if (doc !== here || parts.text.value !== value) return;
      parts.counter.textContent = written(tokens.length);
      here.conv.tokens = tokens.length;
      current.set({ doc: current.value.doc, patch: { tokens: tokens.length } });
    } catch {
      // The estimate stands.
    }
  }, COUNT_MS);
}

/** Lets the model go on at the end of the text, or write between what is before and after the cursor. */
async function generate({ insert = false, at, seed } = {}) {
  if (runs.has(doc.conv.id)) return;
  showTokens(false);
  parts.problem.replaceChildren();
  const { text } = parts;
  const start = at ?? (insert ? text.selectionStart : text.value.length);
  const [prefix, suffix] = [text.value.slice(0, start), text.value.slice(start)];
  await save();
  const message = { id: newId(), text: "" };
  const filling = insert || suffix !== "";
  const ask = () => notebookRequest(doc.conv, prefix, { suffix: filling ? suffix : undefined, probabilities: settings.value.probabilities, seed });
  const run = new Run(doc, message, ask, { keep: () => keep(run) });
  Object.assign(run, { start_at: start, suffix, prefix, insert: filling });
  parts.follow = true;
  run.start();
  attach(run);
}

function attach(run) {
  const { text } = parts;
  const here = doc;
  run.shown = text.value.length - run.prefix.length - run.suffix.length;
  const draw = everyFrame(() => {
    if (doc !== here) return;
    const at = run.start_at + run.shown;
    text.setRangeText(run.text.slice(run.shown), at, at, "preserve");
    run.shown = run.text.length;
    if (parts.follow && !run.suffix) text.scrollTop = text.scrollHeight;
  });
  run.onText(draw);
  run.draw = draw;
}

/** What the text is with all that the run has written, whatever is shown meanwhile. */
const textOf = (run) => run.prefix + run.text + run.suffix;

function keep(run) {
  return saveConv(run.doc, { text: textOf(run), title: run.doc.conv.title || titleOf(textOf(run)) });
}

async function ended(run) {
  const here = run.doc;
  if (doc === here) {
    parts.text.value = textOf(run);
    run.shown = run.text.length; // a frame still to come has nothing left to draw
  }
  refresh();
  if (run.text) {
    const entry = { id: run.message.id, start: run.start_at, text: run.text, seed: run.message.seed, insert: run.insert, params: { ...here.conv.params } };
    await saveConv(here, { text: textOf(run), runs: [...(here.conv.runs ?? []), entry].slice(-MOST_RUNS) });
  }
  refresh();
  countTokens();
  if (doc === here && run.failure) {
    const [, why] = describe(run);
    parts.problem.replaceChildren(h("div", { class: "card error" }, h("strong", { text: why }), run.failure.hint ? h("p", { text: run.failure.hint }) : "",
      h("div", { class: "buttons" }, button("Retry", () => generate({ insert: run.insert, at: run.insert ? run.start_at + run.text.length : undefined }), { className: "small bordered" }))));
  }
}

/** Takes back what the last run wrote, if it still stands there; gives the run. */
function undoRun(quiet = false) {
  const last = doc.conv.runs?.at(-1);
  if (!last) return null;
  const { value } = parts.text;
  if (value.slice(last.start, last.start + last.text.length) !== last.text) {
    toast("The text of the last run was changed since; it stays");
    saveConv(doc, { runs: doc.conv.runs.slice(0, -1) }).then(refresh);
    return null;
  }
  parts.text.setRangeText("", last.start, last.start + last.text.length, "end");
  save({ runs: doc.conv.runs.slice(0, -1) }).then(refresh);
  countTokens();
  if (!quiet) say("The last run is undone");
  return last;
}

function redoRun() {
  const last = undoRun(true);
  if (!last) return;
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  generate({ insert: last.insert, at: last.start, seed });
}

/** A read-only copy with what the model wrote tinted, and the tokens of the last run where they are known. */
async function showTokens(on) {
  const { mirror, text, tokens, problem } = parts;
  tokens.setAttribute("aria-pressed", String(on));
  mirror.hidden = !on;
  text.hidden = on;
  if (!on) return;
  problem.replaceChildren();
  const { value } = text;
  const written = (doc.conv.runs ?? []).filter(({ start, text: piece }) => value.slice(start, start + piece.length) === piece).sort((a, b) => a.start - b.start);
  const last = doc.conv.runs?.at(-1);
  const spans = last && written.includes(last) ? (await get("probs", last.id))?.spans : null;
  mirror.replaceChildren();
  if (spans?.length) {
    fillInspector(mirror, value, spans.map((span) => ({ ...span, from: span.from + last.start })), (from, piece) => useToken(from, piece, last));
  } else mirror.append(h("p", { class: "about", text: "Tinted: written by the model. Switch on Token probabilities in the Output settings to see alternatives." }), tinted(value, written));
  (mirror.querySelector('[tabindex="0"]') ?? tokens).focus({ preventScroll: true });
}

function tinted(value, written) {
  const node = h("div", { class: "tokens" });
  let at = 0;
  for (const { start, text } of written) {
    if (start < at) continue;
    node.append(value.slice(at, start), h("mark", { text }));
    at = start + text.length;
  }
  node.append(value.slice(at));
  return node;
}

/** Another token at a place of the last run: what came after it goes, and the model continues. */
async function useToken(from, piece, last) {
  showTokens(false);
  const end = last.start + last.text.length;
  parts.text.setRangeText(piece, from, end, "end");
  const kept = { ...last, text: parts.text.value.slice(last.start, from + piece.length) };
  await save({ runs: [...doc.conv.runs.slice(0, -1), kept] });
  generate({ insert: last.insert, at: last.insert ? from + piece.length : undefined });
}

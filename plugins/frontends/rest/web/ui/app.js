/** Puts the page together: start, routes, the bar at the top, and the keys. */

import { onRun, runs } from "./answer.js";
import { ApiError, ServerGone, apiKey } from "./api.js";
import { startComposer } from "./composer.js";
import { button, byId, copyText, h } from "./dom.js";
import { startKeys } from "./keys.js";
import { startRail } from "./rail.js";
import { current, keepDoc, loadDoc, loadList, newConversation, rail, saveSettings, server, settings } from "./state.js";
import { alertReader, banner, loadProps, probe, probeNow, say, startStatus } from "./status.js";
import { onOtherTab, onStorageProblem, openStore, purge } from "./store.js";
import { actions, focusMessage, lastAnswer, startTranscript, viewOf } from "./transcript.js";

const THEMES = ["system", "light", "dark"];
const narrow = matchMedia("(max-width: 640px)");
const started = Date.now();
let composer = null;

/** Opens a panel that is loaded on first use; a server that is gone then is told, nothing breaks. */
function panel(module, use) {
  return import(`./${module}.js`).then(use).catch((error) => {
    console.warn(error);
    say("This part of the page could not be loaded: the server does not answer");
    server.set({ state: "gone" });
  });
}

// ---- the server

async function connect() {
  try {
    const props = await loadProps();
    server.set({ state: props.model || props.models ? "ready" : "nomodel", props, samplers: null });
  } catch (error) {
    if (error instanceof ServerGone) server.set({ state: "gone" });
    else if (error instanceof ApiError && error.status === 401) server.set({ state: "locked", wrongKey: Boolean(apiKey.get()) });
    else if (error instanceof ApiError && error.status === 503) server.set({ state: "loading", progress: error.progress });
    else server.set({ state: "ready", problem: error.message });
  }
}

let before = "starting";

function serverChanged({ state, props, wrongKey }, patch) {
  if (patch.state === "locked") panel("dialog", ({ askForKey }) => askForKey(wrongKey, connect));
  if (state !== before) {
    const was = before;
    before = state;
    if (state === "ready" && was !== "starting") say(was === "loading" ? "Ready" : "Connected");
    if (state === "gone") alertReader("The server does not answer. Trying again.");
    if (state === "loading") say("Loading model");
    if (["gone", "loading", "draining"].includes(state)) probe(connect);
    banner("server", state === "gone" && "The server does not answer. What you write is kept.",
      button("Retry now", probeNow, { className: "small" }));
    banner("key", state === "locked" && "The server wants an API key.", button("Give the key", () => server.set({ state: "locked" }), { className: "small" }));
    banner("model", state === "nomodel" && "The server has no model loaded.", h("code", { text: "llamakit serve -m model.gguf" }),
      button("Choose a model", () => byId("model").click(), { className: "small" }));
    if (state === "nomodel") alertReader("The server has no model loaded.");
  }
  drawModel();
  if (props) drawEmpty();
}

function drawModel() {
  const { props } = server.value;
  const conv = current.value.doc?.conv;
  const name = conv?.model ?? props?.model ?? "No model";
  const type = !conv?.model || conv.model === props?.model ? props?.file_type : "";
  const adapters = (conv?.adapters ?? []).filter(({ scale }) => scale).map(({ name: adapter, scale }) => `${adapter} ×${scale}`);
  byId("model-text").replaceChildren(h("span", { class: "visually-hidden", text: "Model: " }), name, type ? h("span", { class: "muted", text: ` ${type}` }) : "",
    adapters.length ? h("span", { class: "muted", text: ` + ${adapters.join(", ")}` }) : "");
}

/** What is seen before the first message. */
function drawEmpty() {
  const { props } = server.value;
  const base = props?.chat === false;
  const examples = base
    ? ["Once upon a time, there was a little fox", "The three most important things about the sea are", "A letter to my younger self:\n\n"]
    : ["Tell the fable of the fox and the stork in three sentences.", "Explain what a hash table is, with a short example in Python.", "Make a table of the planets: name, diameter, moons."];
  const use = (text) => (base ? openNew("notebook", text) : composer.put(text) ?? composer.focus());
  byId("empty").replaceChildren(
    h("p", { class: "empty-title", text: props ? `${props.model ?? "No model"} ${base ? "continues texts" : "is ready to talk"}` : "LlamaKit" }),
    h("p", { class: "muted", text: base
      ? "This file has no chat template: it is a base model. The Notebook suits it; a chat here is sent as a plain transcript."
      : "Your conversations stay in this browser. Nothing leaves this machine and the server you see in the address bar." }),
    h("div", { class: "examples" }, ...examples.map((text) => h("button", { type: "button", class: "example", text: text.trim(), on: { click: () => use(text) } }))));
}

// ---- conversations and routes

async function openNew(kind = current.value.doc?.conv.kind ?? "chat", text = "") {
  const doc = keepDoc({ conv: newConversation(kind, current.value.doc?.conv), messages: new Map() });
  if (text) doc.conv.text = text;
  show(doc);
  history.pushState(null, "", hashOf(doc.conv));
  closeSheets();
}

const hashOf = ({ kind, id }) => `#/${kind === "notebook" ? "n" : "c"}/${id}`;

function show(doc) {
  const { kind } = doc.conv;
  for (const name of ["chat", "notebook"]) {
    byId(name).hidden = name !== kind;
    byId(`tab-${name}`).setAttribute("aria-selected", String(name === kind));
    byId(`tab-${name}`).tabIndex = name === kind ? 0 : -1;
  }
  byId("new-text").textContent = kind === "notebook" ? "New notebook" : "New chat";
  if (kind === "notebook") panel("notebook", ({ openNotebook }) => openNotebook(doc));
  current.set({ doc });
  if (kind === "chat" && !narrow.matches) composer.focus();
}

async function route() {
  const [, section, id] = /^#\/([cns])\/([\w-]*)/.exec(location.hash) ?? [];
  if (section === "s") openDrawer(id);
  if (section === "s" && current.value.doc) return void history.replaceState(null, "", hashOf(current.value.doc.conv));
  const doc = section && section !== "s" ? await loadDoc(id) : null;
  if (doc) return show(doc);
  const kind = section === "n" || (!section && server.value.props?.chat === false) ? "notebook" : "chat";
  const fresh = keepDoc({ conv: newConversation(kind, current.value.doc?.conv), messages: new Map() });
  show(fresh);
  if (section !== "s") history.replaceState(null, "", hashOf(fresh.conv));
}

function titles() {
  const { doc } = current.value;
  const title = doc?.conv.title || (doc?.conv.kind === "notebook" ? "New notebook" : "New chat");
  byId("title").textContent = title;
  document.title = doc?.conv.title ? `${title} · LlamaKit` : "LlamaKit";
  const changed = doc ? Object.keys(doc.conv.params).length : 0;
  byId("settings-text").textContent = changed ? `Settings · ${changed} changed` : "Settings";
  drawModel();
}

async function switchTo(kind) {
  if (current.value.doc?.conv.kind === kind) return;
  const last = rail.value.list.find((conv) => conv.kind === kind);
  const { text } = current.value.doc.conv;
  const doc = last && !text ? await loadDoc(last.id) : null;
  if (!doc) return openNew(kind);
  location.hash = hashOf(doc.conv);
}

// ---- panels

/** On a phone, rail and drawer are full-screen dialogs; elsewhere they stand beside the text. */
function sheet(node, label) {
  const home = node.parentElement;
  const place = node.nextSibling;
  const dialog = h("dialog", { class: "sheet", "aria-label": label }, node);
  dialog.addEventListener("close", () => {
    home.insertBefore(node, place);
    dialog.remove();
    if (node.id === "drawer") node.hidden = true;
    byId("settings").setAttribute("aria-expanded", "false");
  });
  document.body.append(dialog);
  dialog.showModal();
}

const closeSheets = () => document.querySelectorAll("dialog.sheet").forEach((dialog) => dialog.close());

function toggleRail(shown = !settings.value.rail) {
  if (narrow.matches) {
    const dialog = byId("rail").closest("dialog");
    if (dialog) dialog.close();
    else sheet(byId("rail"), "Conversations");
    return;
  }
  saveSettings({ rail: shown });
}

function openDrawer(section) {
  return panel("drawer", ({ openDrawer: open }) => open(section, narrow.matches ? (node) => sheet(node, "Settings") : null));
}

function toggleDrawer() {
  const node = byId("drawer");
  if (node.closest("dialog")) node.closest("dialog").close();
  else if (!node.hidden) panel("drawer", ({ closeDrawer }) => closeDrawer());
  else openDrawer();
}

function applySettings({ theme, rail: shown }) {
  document.documentElement.dataset.theme = theme;
  byId("theme-text").textContent = theme[0].toUpperCase() + theme.slice(1);
  byId("app").classList.toggle("no-rail", !shown);
}

function wire() {
  const click = (id, action) => byId(id).addEventListener("click", action);
  click("new", () => openNew());
  click("rail-open", () => toggleRail(true));
  click("rail-close", () => toggleRail(false));
  click("settings", toggleDrawer);
  click("theme", () => saveSettings({ theme: THEMES[(THEMES.indexOf(settings.value.theme) + 1) % THEMES.length] }));
  click("keys", () => panel("dialog", ({ showKeys }) => showKeys()));
  click("export", () => panel("transfer", ({ exportAll }) => exportAll()));
  click("import", () => panel("transfer", ({ importFile }) => importFile()));
  click("model", () => panel("picker", ({ showPicker }) => showPicker(byId("model"))));
  click("context", () => panel("meter", ({ showContext }) => showContext(byId("context"))));
  click("status-open", () => actions.details(lastAnswer(), byId("status-open")));
  click("tab-chat", () => switchTo("chat"));
  click("tab-notebook", () => switchTo("notebook"));
  click("skip", (event) => {
    event.preventDefault();
    focusWriting();
  });
  document.querySelector(".tabs").addEventListener("keydown", ({ key }) => {
    if (!["ArrowLeft", "ArrowRight"].includes(key)) return;
    const other = byId(document.activeElement.id === "tab-chat" ? "tab-notebook" : "tab-chat");
    other.focus();
    other.click();
  });
}

/** What keys can do; the names are those of keys.js. */
const commands = {
  new: () => openNew(),
  search() {
    if (narrow.matches ? !byId("rail").closest("dialog") : !settings.value.rail) toggleRail(true);
    byId("search").focus();
  },
  rail: () => toggleRail(),
  settings: toggleDrawer,
  regenerate: () => actions.regenerate(),
  continue: () => actions.continue(),
  code: copyLastCode,
  last: () => focusMessage(),
  probabilities: () => viewOf(lastAnswer()) && actions.probabilities(viewOf(lastAnswer())),
  export: () => panel("transfer", ({ exportOne }) => exportOne(current.value.doc)),
  keys: () => byId("keys").click(),
  escape() {
    const run = runs.get(current.value.doc?.conv.id);
    if (run) run.stop();
    else focusWriting();
  },
};

function focusWriting() {
  if (byId("chat").hidden) byId("notebook").querySelector("textarea")?.focus();
  else composer.focus();
}

async function copyLastCode() {
  const blocks = byId("transcript").querySelectorAll("pre");
  if (!blocks.length) return;
  const { sourceOf } = await import("./markdown.js");
  say((await copyText(sourceOf([...blocks].at(-1)))) ? "Code copied" : "Not copied");
}

/** On iOS the keyboard covers the page: its height is what is left. */
function fitKeyboard() {
  const fit = () => document.documentElement.style.setProperty("--height", `${visualViewport.height}px`);
  const covered = () => visualViewport.scale === 1 && visualViewport.height < innerHeight - 80;
  visualViewport?.addEventListener("resize", () => (covered() ? fit() : document.documentElement.style.removeProperty("--height")));
}

async function start() {
  settings.subscribe(applySettings);
  composer = startComposer();
  startTranscript();
  startStatus();
  wire();
  startKeys(commands);
  fitKeyboard();
  startRail({ open: (conv, go) => (closeSheets(), go && (location.hash = hashOf(conv))), create: () => openNew("chat"),
    menu: (conv, opener) => panel("menu", ({ showMenu }) => showMenu(conv, opener)) });
  current.subscribe(titles);
  onStorageProblem((reason) => {
    const text = `Conversations of this tab will be lost: ${reason}.`;
    banner("storage", text, button("Export", () => byId("export").click(), { className: "small" }));
    alertReader(text);
  });
  const connected = connect();
  await openStore();
  await purge(started);
  await loadList();
  if (!location.hash) await connected;
  await route();
  server.subscribe(serverChanged);
  addEventListener("hashchange", route);
  onOtherTab((id) => panel("tabs", ({ changedElsewhere }) => changedElsewhere(id)));
  onRun((name, run) => panel("speech", ({ announce }) => announce(name, run)));
  current.subscribe(({ doc }) => doc && (doc.messages.size || doc.conv.draft.length > 200 || doc.conv.text) && panel("meter", ({ drawMeter }) => drawMeter()));
  if (settings.value.drawer && !narrow.matches) openDrawer();
  document.documentElement.dataset.ready = "true";
}

start();

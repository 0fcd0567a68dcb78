/** The open chat: its messages in order, the answer that is being written, and what can be done with them. */

import { onRun, runs, startAnswer } from "./answer.js";
import { byId, count, h } from "./dom.js";
import { current, deepest, newMessage, path, saveConv, server, settings, titleOf } from "./state.js";
import { askToPersist, remove } from "./store.js";
import { Pin, everyFrame } from "./pin.js";

const MOST_SHOWN = 300;
const SHOWN_THEN = 100;

let doc = null;
let views = new Map(); // by message id, in the order shown
let earlier = 0; // how many messages are not shown
let pin = null;
let draw = () => {};
let unfollow = () => {};
let failed = null; // the last answer that failed before it had any text: it is shown, and not kept
let missed = 0; // lines that arrived while the reader was elsewhere

let MessageView = null; // its module, with all of Markdown, comes with the first message
let loading = null;

/** Loads what shows messages. A server that is gone just then is asked again by the next message. */
export function loadMessages() {
  loading ??= import("./message.js").then((module) => (MessageView = module.MessageView)).catch(() => {
    loading = null;
    server.set({ state: "gone" });
  });
  return loading;
}

export function startTranscript() {
  const scroller = byId("scroller");
  pin = new Pin(scroller, { changed: showNewest });
  pin.limit = followLimit;
  byId("newest").addEventListener("click", () => {
    pin.toEnd();
    byId("message").focus({ preventScroll: true });
  });
  byId("transcript").addEventListener("keydown", moveFocus);
  document.addEventListener("selectionchange", () => document.getSelection().isCollapsed && draw());
  current.subscribe(({ doc: next }, { patch } = {}) => {
    if (next !== doc) show(next);
    else if (doc?.conv.kind === "chat" && patch && ("leaf" in patch || "firstSeen" in patch)) refresh();
  });
  onRun((name, run) => {
    if (run.doc !== doc || doc.conv.kind !== "chat") return;
    if (name === "began") attach(run);
    else if (name === "ended") detach(run);
    else if (name === "busy") showBusy(run);
    else views.get(run.message.id)?.cards.replaceChildren();
  });
  for (const type of ["keydown", "pointerdown"]) addEventListener(type, loadMessages, { once: true, capture: true });
  server.subscribe(({ state }) => state === "ready" && doc?.messages.size && !MessageView && show(doc));
  settings.subscribe((_, patch) => "ownMarkdown" in patch && doc && show(doc));
}

/** With "top", following ends where the question touches the top. */
function followLimit() {
  if (!views.size) return 0; // what greets is read from its beginning
  if (settings.value.follow !== "top") return Infinity;
  const question = [...views.values()].findLast(({ message }) => message.role === "user");
  return question ? question.node.offsetTop - 8 : Infinity;
}

function showNewest() {
  const hidden = pin.pinned || !runs.has(doc?.conv.id);
  byId("newest").hidden = hidden && (pin.atEnd || pin.pinned);
  if (pin.pinned) missed = 0;
  byId("newest-text").textContent = missed ? `${count(missed)} new ${missed === 1 ? "line" : "lines"}` : "newest";
}

/** The answer that is being written, or that failed and has nothing to be kept. */
function shownRun() {
  const late = failed?.doc === doc && failed.message.parent === doc.conv.leaf ? failed : null;
  return runs.get(doc.conv.id) ?? late;
}

/** The messages to show: the path to the leaf, or to that answer. */
function shownPath() {
  const run = shownRun();
  return run ? [...path(doc, run.message.parent), run.message] : path(doc);
}

function show(next) {
  unfollow();
  [doc, views, earlier] = [next, new Map(), 0];
  byId("transcript").replaceChildren();
  if (!doc || doc.conv.kind !== "chat") return;
  const total = shownPath().length;
  byId("empty").hidden = total > 0;
  if (!total) return;
  if (!MessageView) {
    loadMessages().then(() => MessageView && doc === next && show(next));
    return;
  }
  earlier = total > MOST_SHOWN ? total - SHOWN_THEN : 0;
  refresh();
  const run = runs.get(doc.conv.id);
  if (run) attach(run);
  pin.toEnd();
}

/** Makes the transcript show the present path; messages that stay are not touched but for what is around them. */
export function refresh() {
  if (!MessageView) return show(doc);
  const run = shownRun();
  const messages = shownPath();
  const shown = messages.slice(earlier);
  const parent = byId("transcript");
  const byParent = Map.groupBy(doc.messages.values(), (message) => message.parent);
  const kept = new Set(shown.map(({ id }) => id));
  for (const [id, view] of views) if (!kept.has(id)) view.node.remove();
  const old = views;
  views = new Map();
  shown.forEach((message, index) => {
    const view = old.get(message.id) ?? new MessageView(doc, message, actions);
    views.set(message.id, view);
    if (parent.children[index + 1] !== view.node) parent.append(view.node);
    const last = index === shown.length - 1;
    const branches = (byParent.get(message.parent) ?? []).toSorted((a, b) => a.created - b.created);
    view.refresh({ index: index + earlier, last, run: run?.message === message ? run : null, branches });
    if (failed?.message === message) view.showFailure(failed.failure);
    view.node.tabIndex = last ? 0 : -1;
    view.node.classList.toggle("unseen-above", message.id === doc.conv.firstSeen);
  });
  placeEarlier(parent);
  byId("empty").hidden = messages.length > 0;
}

/** The first child of the transcript: the button for messages that are not shown. */
function placeEarlier(parent) {
  let button = byId("earlier");
  if (!button) {
    button = h("button", { type: "button", id: "earlier", on: { click: () => {
      const first = views.values().next().value;
      earlier = Math.max(0, earlier - SHOWN_THEN * 2);
      parent.replaceChildren();
      refresh();
      first?.node.scrollIntoView();
    } } });
  }
  button.textContent = `Show earlier (${count(earlier)})`;
  button.hidden = !earlier;
  if (parent.firstChild !== button) parent.prepend(button);
}

/** Follows the answer that is being written. */
function attach(run) {
  if (!MessageView) return void loadMessages().then(() => MessageView && doc === run.doc && show(doc));
  unfollow();
  refresh();
  const view = views.get(run.message.id);
  view.showFailure(null, false);
  view.beginStream();
  let lines = view.message.text.length;
  draw = everyFrame(() => {
    view.draw();
    missed += pin.pinned ? 0 : run.message.text.slice(lines).split("\n").length - 1;
    lines = run.message.text.length;
    pin.follow();
    if (!pin.pinned) showNewest();
  });
  const off = run.onText(draw);
  unfollow = () => {
    off();
    draw = () => {};
    unfollow = () => {};
  };
}

function showBusy(run) {
  const place = views.get(run.message.id)?.cards;
  import("./cards.js").then(({ busyCard }) => run.state.value.phase === "busy" && place?.replaceChildren(busyCard(run))).catch(() => {});
}

/** The answer has ended: nothing moves. */
function detach(run) {
  failed = run.failure && !run.message.text && !doc.messages.has(run.message.id) ? run : null;
  if (!MessageView) return;
  unfollow();
  views.get(run.message.id)?.endStream();
  refresh();
  if (run.failure && !run.text) views.get(run.message.id)?.showFailure(run.failure);
  showNewest();
}

/** Sends what the person wrote and starts the answer. A question that got no answer is replaced. */
export async function send(text) {
  const here = doc;
  const leaf = here.messages.get(here.conv.leaf);
  const parent = leaf?.role === "user" ? leaf.parent : (leaf?.id ?? null);
  const question = newMessage(here, parent, "user", text);
  const title = here.conv.title || titleOf(text);
  const first = !here.messages.size;
  const saving = saveConv(here, { leaf: question.id, title, draft: "" }, { touch: true, messages: [question] });
  follow();
  answer(question.id);
  await saving;
  if (first) askToPersist();
}

function follow() {
  pin.toEnd();
  if (settings.value.follow === "never") pin.set(false);
}

/** A new answer to a message. */
export function answer(parent, { text = "", seed } = {}) {
  return startAnswer(doc, newMessage(doc, parent, "assistant", text), { seed });
}

export function lastAnswer() {
  return doc && path(doc).findLast(({ role }) => role === "assistant");
}

export function viewOf(message) {
  return message && views.get(message.id);
}

export const actions = {
  regenerate(message = lastAnswer()) {
    if (!message) return;
    follow();
    answer(message.parent);
  },
  continue(message = lastAnswer()) {
    if (!message) return;
    follow();
    startAnswer(doc, message);
  },
  /** An answer that failed: its text goes on, or the question is asked again. */
  retry(message) {
    if (message.text) return actions.continue(message);
    answer(message.parent);
  },
  /** The question of an answer that failed. */
  editQuestion(message) {
    actions.edit(views.get(message.parent));
  },
  async branch(message, step = 0) {
    await saveConv(doc, { leaf: deepest(doc, message).id });
    const arrow = viewOf(message)?.tools.querySelector(`[data-tool="branch${step}"]`);
    (arrow?.disabled ? viewOf(message)?.tools.querySelector(".branches button:enabled") : arrow)?.focus();
  },
  /** Another branch beside `message` with the given text; `go`: the model continues it, or answers it. */
  async fork(message, text, { go = true } = {}) {
    const copy = newMessage(doc, message.parent, message.role, text, { edited: Date.now() });
    if (message.role === "assistant" && go) return startAnswer(doc, copy);
    await saveConv(doc, { leaf: copy.id }, { touch: true, messages: [copy] });
    return go ? answer(copy.id) : null;
  },
  async keepEdit(view, text) {
    Object.assign(view.message, { text, edited: Date.now() });
    await saveConv(doc, { leaf: doc.conv.leaf }, { messages: [view.message] });
    await remove("probs", view.message.id);
    view.renderBody();
  },
  edit: (view) => import("./edit.js").then(({ edit }) => edit(view, actions)),
  probabilities: (view) => import("./probs.js").then(({ inspect }) => inspect(view, actions)),
  details: (message, opener) => import("./details.js").then(({ showDetails }) => showDetails(message, opener)),
};

/** ↑ ↓ Home End go from message to message. */
function moveFocus(event) {
  if (!event.target.matches("article") || event.ctrlKey || event.altKey || event.metaKey) return;
  const nodes = [...views.values()].map(({ node }) => node);
  const at = nodes.indexOf(event.target);
  const next = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: nodes.length - 1 }[event.key];
  if (next === undefined || !nodes[next]) return;
  event.preventDefault();
  focusMessage(nodes[next]);
}

export function focusMessage(node = [...views.values()].at(-1)?.node) {
  if (!node) return;
  for (const { node: other } of views.values()) other.tabIndex = other === node ? 0 : -1;
  node.focus();
  node.scrollIntoView({ block: "nearest" });
}

/** The last own message, for ↑ in an empty composer. */
export const lastOwn = () => [...views.values()].findLast(({ message }) => message.role === "user");

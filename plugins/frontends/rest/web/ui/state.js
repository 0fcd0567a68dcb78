/** What the page knows: its settings, the server, the conversations. Each concern can be subscribed to. */

import { all, announceChange, get, newId, putAll } from "./store.js";

/** A value with subscribers; `set` merges a patch and tells them. */
export class Cell {
  #listeners = new Set();

  constructor(value) {
    this.value = value;
  }

  set(patch) {
    this.value = { ...this.value, ...patch };
    for (const listener of [...this.#listeners]) listener(this.value, patch);
  }

  subscribe(listener) {
    this.#listeners.add(listener);
    listener(this.value, this.value);
    return () => this.#listeners.delete(listener);
  }
}

const SETTINGS = "llamakit.settings";
const DEFAULTS = {
  theme: "system", // or "light", "dark"
  enter: "auto", // "send", "newline"; auto: a touch keyboard makes new lines
  follow: "follow", // "top": until the question is at the top; "never"
  aloud: "end", // "off", "sentence"
  shortcuts: true,
  ownMarkdown: false,
  probabilities: false,
  rail: true,
  drawer: false,
};

function loadSettings() {
  try {
    const stored = JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
    return Object.fromEntries(Object.entries(DEFAULTS).map(([name, value]) =>
      [name, typeof stored[name] === typeof value ? stored[name] : value]));
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = new Cell(loadSettings());

export function saveSettings(patch) {
  settings.set(patch);
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings.value));
  } catch {
    // Kept for this visit only.
  }
}

/** `state`: "starting", "ready", "loading", "draining", "gone", "nomodel" or "locked" (a key is missing). */
export const server = new Cell({ state: "starting", props: null, samplers: null });

/** Metadata of all conversations that are not deleted, newest first. */
export const rail = new Cell({ list: [] });

/** The open conversation: `doc` is `{conv, messages}`, messages by id. */
export const current = new Cell({ doc: null });

const open = new Map(); // documents by id, so that an answer and the page share one

export async function loadList() {
  const list = (await all("conversations")).filter((conv) => !conv.deleted);
  rail.set({ list: list.sort((a, b) => b.updated - a.updated) });
}

export function newConversation(kind, from = {}) {
  const { params = {}, chain = null, adapters = null, model = null, template = null } = from;
  const now = Date.now();
  return { id: newId(), kind, title: "", created: now, updated: now, pinned: 0, leaf: null, system: "", text: "", draft: "",
    params: { ...params }, chain, adapters, model, template, grammar: null, unsaved: true };
}

/** The document of a conversation, from the page's memory or the store; null where there is none. */
export async function loadDoc(id, { fresh = false } = {}) {
  if (open.has(id) && !fresh) return open.get(id);
  const conv = await get("conversations", id);
  if (!conv || conv.deleted) return null;
  const messages = new Map((await all("messages", "conv", id)).map((message) => [message.id, message]));
  return keepDoc({ conv, messages });
}

export function keepDoc(doc) {
  open.set(doc.conv.id, doc);
  return doc;
}

/** The messages from the first to the leaf. */
export function path({ conv, messages }, leaf = conv.leaf) {
  const found = [];
  for (let at = messages.get(leaf); at && found.length <= messages.size; at = messages.get(at.parent)) found.push(at);
  return found.reverse();
}

/** The branches at a message: those with the same parent, oldest first. */
export function siblings({ messages }, { parent }) {
  return [...messages.values()].filter((other) => other.parent === parent).sort((a, b) => a.created - b.created);
}

/** The newest leaf below a message. */
export function deepest(doc, message) {
  let at = message;
  for (let steps = doc.messages.size; steps > 0; steps -= 1) {
    const children = siblings(doc, { parent: at.id });
    if (!children.length) break;
    at = children.at(-1);
  }
  return at;
}

/** Changes a conversation, keeps it, and tells whoever shows it. `touch`: it moves to the top of the list. */
export async function saveConv(doc, patch = {}, { touch = false, messages = [] } = {}) {
  Object.assign(doc.conv, patch);
  if (touch) doc.conv.updated = Date.now();
  delete doc.conv.unsaved;
  for (const message of messages) doc.messages.set(message.id, message);
  const others = rail.value.list.filter((conv) => conv.id !== doc.conv.id);
  const list = doc.conv.deleted ? others : [doc.conv, ...others].sort((a, b) => b.updated - a.updated);
  rail.set({ list });
  if (current.value.doc === doc) current.set({ doc, patch });
  await putAll({ conversations: [doc.conv], messages });
  announceChange(doc.conv.id);
}

/** A message of the conversation, not yet kept. */
export function newMessage(doc, parent, role, text, more = {}) {
  return { id: newId(), conv: doc.conv.id, parent, role, text, created: Date.now(), ...more };
}

/** The first words of a text, as a title. */
export function titleOf(text) {
  const line = text.trim().split(/\s+/).join(" ");
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), 20))}…`;
}

/** Reads files of conversations: ours, llama.cpp's, and plain lists of messages. Nothing in them is trusted. */

import { newId } from "./store.js";

const MOST_MESSAGES = 100_000;
const LONGEST_TEXT = 4 << 20;
const ROLES = new Set(["user", "assistant"]);
const CONSTRAINTS = ["gbnf", "lark", "schema", "regex"];

/** `{docs: [{conv, list}], presets, settings, skipped: [reason]}`. */
export function readImport(data) {
  const result = { docs: [], presets: [], settings: null, skipped: [] };
  if (data?.format === "llamakit.conversations") readOwn(data, result);
  else if (Array.isArray(data) && data.length && data.every((entry) => isObject(entry) && "role" in entry)) readPlain(data, result);
  else if (Array.isArray(data) || isObject(data?.conv)) [data].flat().forEach((entry) => readLlamaCpp(entry, result));
  else if (Array.isArray(data?.messages)) readPlain(data.messages, result);
  return result;
}

/**
 * What was read, as records that take the place of none that are there, nor of one another: whatever has an id that is
 * taken gets a new one, and presets of a name that another has a number.
 */
export function beside({ docs, presets }, oldConvs, oldMessages, oldPresets) {
  const [known, messageIds] = [oldConvs, oldMessages].map((records) => new Set(records.map(({ id }) => id)));
  const convs = [];
  const messages = [];
  for (const { conv, list } of docs) {
    const id = known.has(conv.id) ? newId() : conv.id;
    const ids = new Map(list.map((message) => [message.id, messageIds.has(message.id) || id !== conv.id ? newId() : message.id]));
    const own = list.map((message) => ({ ...message, id: ids.get(message.id), conv: id, parent: ids.get(message.parent) ?? null }));
    messages.push(...own);
    convs.push({ ...conv, id, leaf: ids.get(conv.leaf) ?? own.at(-1)?.id ?? null, firstSeen: ids.get(conv.firstSeen) });
    known.add(id);
    for (const message of own) messageIds.add(message.id);
  }
  return { convs, messages, presets: freshPresets(presets, oldPresets) };
}

function freshPresets(presets, oldPresets) {
  const content = ({ params, chain, grammar, system }) => JSON.stringify([params ?? {}, chain ?? null, grammar ?? null, system ?? ""]);
  const known = new Map(oldPresets.map((preset) => [preset.name, content(preset)]));
  const fresh = [];
  for (const preset of presets) {
    let { name } = preset;
    for (let n = 2; known.has(name) && known.get(name) !== content(preset); n += 1) name = `${preset.name} (${n})`;
    if (!known.has(name)) fresh.push({ ...preset, name });
    known.set(name, content(preset));
  }
  return fresh;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const string = (value, most = LONGEST_TEXT) => (typeof value === "string" ? value.slice(0, most) : "");
const time = (value) => (Number.isFinite(value) && value > 0 ? value : Date.now());
const id = (value) => (typeof value === "string" && /^[\w-]{1,64}$/.test(value) ? value : newId());

function readOwn({ version, conversations, presets, settings }, result) {
  if (version !== 1) {
    result.skipped.push(`version ${version} of the format is not known here`);
    return;
  }
  for (const entry of Array.isArray(conversations) ? conversations : []) {
    attempt(result, string(entry?.title, 60), () => ownDoc(entry));
  }
  for (const preset of Array.isArray(presets) ? presets : []) {
    if (isObject(preset) && string(preset.name, 100)) result.presets.push({ name: string(preset.name, 100), ...kept(preset), system: string(preset.system), created: time(preset.created) });
  }
  if (isObject(settings)) result.settings = Object.fromEntries(Object.entries(settings).filter(([name]) => ["follow", "aloud", "ownMarkdown", "enter"].includes(name)));
}

/** What a conversation or a preset keeps of how answers are made. */
function kept({ params, chain, grammar, adapters, model, template }) {
  return {
    params: isObject(params) ? params : {},
    chain: Array.isArray(chain) && chain.every((name) => typeof name === "string") ? chain : null,
    grammar: isObject(grammar) && typeof grammar.text === "string" ? { kind: CONSTRAINTS.includes(grammar.kind) ? grammar.kind : "gbnf", text: grammar.text, on: Boolean(grammar.on) } : null,
    adapters: Array.isArray(adapters) ? adapters.filter((one) => isObject(one) && typeof one.name === "string" && Number.isFinite(one.scale)).map(({ name, scale }) => ({ name, scale })) : null,
    model: typeof model === "string" ? model : null,
    template: isObject(template) ? { plain: Boolean(template.plain), user: string(template.user, 100) || "User", bot: string(template.bot, 100) || "Llama" } : null,
  };
}

function ownDoc(entry) {
  if (!isObject(entry) || !Array.isArray(entry.messages)) throw new Error("it has no messages");
  const list = entry.messages.map((message) => ({
    ...pick(message, ["usage", "timings", "details", "params"], isObject), ...pick(message, ["stop", "model", "reasoning"], (value) => typeof value === "string"),
    ...pick(message, ["seed", "edited"], Number.isFinite), adapters: kept(message ?? {}).adapters,
    id: id(message?.id), parent: message?.parent ?? null, role: message?.role, text: string(message?.text), created: time(message?.created),
  }));
  const conv = { ...kept(entry), id: id(entry.id), kind: entry.kind === "notebook" ? "notebook" : "chat", title: string(entry.title, 200),
    created: time(entry.created), updated: time(entry.updated), pinned: entry.pinned ? 1 : 0, system: string(entry.system), text: string(entry.text),
    draft: "", leaf: entry.leaf ?? null, firstSeen: entry.firstSeen };
  return { conv, list };
}

function pick(source, names, wanted) {
  return Object.fromEntries(names.filter((name) => wanted(source?.[name])).map((name) => [name, source[name]]));
}

/** `{conv: {id, name, currNode}, messages: [{id, convId, parent, role, content}]}` */
function readLlamaCpp(entry, result) {
  attempt(result, string(entry?.conv?.name, 60), () => {
    if (!isObject(entry?.conv) || !Array.isArray(entry.messages)) throw new Error("it is not a conversation");
    const systems = entry.messages.filter((message) => message?.role === "system" && string(message.content));
    const key = (value) => (value === null || value === undefined ? null : `lc-${String(value).replace(/[^\w-]/g, "").slice(0, 60)}`);
    const roots = new Map(entry.messages.filter((message) => !ROLES.has(message?.role)).map((message) => [key(message?.id), key(message?.parent)]));
    const parentOf = (at) => {
      let parent = key(at);
      for (let steps = roots.size; roots.has(parent) && steps >= 0; steps -= 1) parent = roots.get(parent);
      return parent;
    };
    const list = entry.messages.filter((message) => ROLES.has(message?.role)).map((message) => ({
      id: key(message.id) ?? newId(), parent: parentOf(message.parent), role: message.role, text: string(message.content),
      reasoning: string(message.thinking ?? message.reasoningContent), created: time(message.timestamp),
    }));
    const { name, lastModified, currNode } = entry.conv;
    return { list, conv: { id: key(entry.conv.id) ?? newId(), kind: "chat", title: string(name, 200), created: time(lastModified), updated: time(lastModified),
      system: string(systems[0]?.content), leaf: key(currNode) } };
  });
}

/** `[{role, content}]` */
function readPlain(entries, result) {
  attempt(result, "the list of messages", () => {
    const now = Date.now();
    const list = [];
    const system = entries.filter(({ role }) => role === "system").map(({ content }) => string(content)).join("\n");
    for (const { role, content } of entries) {
      if (ROLES.has(role)) list.push({ id: newId(), parent: list.at(-1)?.id ?? null, role, text: textOf(content), created: now + list.length });
    }
    if (!list.length) throw new Error("it holds no messages");
    return { list, conv: { id: newId(), kind: "chat", title: list[0].text.slice(0, 60), created: now, updated: now, system, leaf: list.at(-1).id } };
  });
}

const textOf = (content) => (Array.isArray(content) ? content.map((part) => string(part?.text)).join("") : string(content));

function attempt(result, name, read) {
  try {
    const doc = read();
    check(doc.list);
    result.docs.push(doc);
  } catch (error) {
    result.skipped.push(`${name || "untitled"}: ${error.message}`);
  }
}

/** A tree: known roles, no id twice, no circle. */
function check(list) {
  if (list.length > MOST_MESSAGES) throw new Error(`it has more than ${MOST_MESSAGES} messages`);
  const parents = new Map(list.map((message) => [message.id, message.parent]));
  if (parents.size !== list.length) throw new Error("two messages have the same id");
  if (list.some(({ role }) => !ROLES.has(role))) throw new Error("a message has an unknown role");
  const fine = new Set([null, undefined]);
  for (const start of parents.keys()) {
    const trail = new Set();
    for (let at = start; !fine.has(at) && parents.has(at); at = parents.get(at)) {
      if (trail.has(at)) throw new Error("its messages go round in a circle");
      trail.add(at);
    }
    for (const at of trail) fine.add(at);
  }
}

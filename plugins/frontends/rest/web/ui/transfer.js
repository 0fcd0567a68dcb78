/** Conversations in and out of files, and the search in their texts. */

import { confirmTyped } from "./dialog.js";
import { count, download, h } from "./dom.js";
import { beside, readImport } from "./imports.js";
import { loadList, newConversation, path, rail, saveSettings, settings } from "./state.js";
import { alertReader, toast } from "./status.js";
import { all, announceChange, newId, put, putAll, remove } from "./store.js";

const FORMAT = "llamakit.conversations";
const LARGEST = 64 << 20;

async function fileOf(convs) {
  const conversations = [];
  for (const conv of convs) {
    const { draft: _, ...rest } = conv;
    conversations.push({ ...rest, messages: await all("messages", "conv", conv.id) });
  }
  return { format: FORMAT, version: 1, exported: new Date().toISOString(), conversations, presets: await all("presets"), settings: settings.value };
}

const fileName = (title, end) => `${title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50) || "conversation"}.${end}`;

export async function exportAll() {
  const convs = (await all("conversations")).filter(({ deleted }) => !deleted);
  download(`llamakit-${new Date().toISOString().slice(0, 10)}.json`, JSON.stringify(await fileOf(convs), null, 1));
  await put("meta", { key: "exported", at: Date.now() });
  toast(`Exported ${count(convs.length)} conversations`);
}

export async function exportOne(doc) {
  if (!doc || doc.conv.unsaved) return toast("There is nothing to export yet");
  const file = await fileOf([doc.conv]);
  return download(fileName(doc.conv.title, "json"), JSON.stringify({ ...file, presets: [], settings: undefined }, null, 1));
}

export function exportMarkdown(doc) {
  const parts = path(doc).map(({ role, text }) => `## ${role === "user" ? "You" : "Answer"}\n\n${text}\n`);
  const system = doc.conv.system.trim() ? [`> ${doc.conv.system.trim().replaceAll("\n", "\n> ")}\n`] : [];
  const body = doc.conv.kind === "notebook" ? [doc.conv.text] : [...system, ...parts];
  download(fileName(doc.conv.title, "md"), `# ${doc.conv.title || "Untitled"}\n\n${body.join("\n")}`, "text/markdown");
}

/** Asks for a file and takes in what it holds. */
export function importFile() {
  const input = h("input", { type: "file", accept: ".json,application/json", class: "off-screen", "aria-label": "File to import" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    input.remove();
    if (!file) return;
    if (file.size > LARGEST) return refuse(`the file is larger than ${LARGEST >> 20} MiB`);
    let data;
    try {
      data = JSON.parse(await file.text());
    } catch {
      return refuse("the file is not JSON");
    }
    await takeIn(data);
  });
  document.body.append(input);
  input.click();
}

function refuse(why) {
  alertReader(`Nothing was imported: ${why}`);
  toast(`Nothing was imported: ${why}`);
}

/** Writes what was read in one transaction, beside what is there. */
export async function takeIn(data) {
  const read = readImport(data);
  const { skipped, settings: taken } = read;
  if (!read.docs.length && !read.presets.length) return refuse(skipped[0] ?? "it holds no conversations that this page knows");
  const { convs, messages, presets } = beside(read, await all("conversations"), await all("messages"), await all("presets"));
  const conversations = convs.map((conv) => ({ ...newConversation(conv.kind), ...conv, unsaved: undefined }));
  await putAll({ conversations, messages, presets });
  if (taken) saveSettings(taken);
  await loadList();
  for (const { id } of conversations) announceChange(id);
  const rest = skipped.length ? `, ${count(skipped.length)} skipped: ${skipped.slice(0, 3).join("; ")}` : "";
  return toast(`Imported ${count(conversations.length)} ${conversations.length === 1 ? "conversation" : "conversations"}${rest}`);
}

/** The ids of conversations in whose messages all the words stand. */
export async function searchMessages(words) {
  const wanted = words.split(/\s+/);
  const texts = new Map(rail.value.list.map(({ id, title, text, system }) => [id, [title, text, system]]));
  for (const { conv, text } of await all("messages")) texts.get(conv)?.push(text);
  const holds = (parts) => {
    const whole = parts.join("\n").toLowerCase();
    return wanted.every((word) => whole.includes(word));
  };
  return new Set([...texts].filter(([, parts]) => holds(parts)).map(([id]) => id));
}

export function removeAll() {
  const n = rail.value.list.length;
  confirmTyped("Delete all", `${count(n)} conversations will be gone for good. Export them first if you may want them back.`, "delete", async () => {
    for (const store of ["conversations", "messages", "probs"]) {
      const key = store === "probs" ? "message" : "id";
      await remove(store, (await all(store)).map((record) => record[key]));
    }
    await loadList();
    location.hash = `#/c/${newId()}`;
    toast("All conversations are deleted");
  });
}


/** The list of conversations: search, rename, delete with Undo, and the menu of each. */

import { running, runs } from "./answer.js";
import { byId, h, iconButton, submits } from "./dom.js";
import { current, loadDoc, rail, saveConv } from "./state.js";
import { toast } from "./status.js";

const DAY_MS = 86_400_000;
let filter = "";
let matches = null; // ids whose messages hold the words searched for
let hooks = {};

/** `hooks`: `open(conv)`, `create()`, `menu(conv, opener)`. */
export function startRail(given) {
  hooks = given;
  const box = byId("search");
  let timer = 0;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => search(box.value), 150);
  });
  box.addEventListener("keydown", (event) => {
    const [first] = byId("conversations").querySelectorAll("a");
    if (event.key === "ArrowDown" || submits(event, true)) {
      event.preventDefault();
      if (event.key === "Enter") first?.click();
      else first?.focus();
    } else if (event.key === "Escape" && box.value) {
      event.stopPropagation();
      box.value = "";
      search("");
    }
  });
  byId("conversations").addEventListener("keydown", moveFocus);
  rail.subscribe(draw);
  running.subscribe(draw);
  current.subscribe((_, patch) => (!patch?.patch || "title" in patch.patch) && draw());
}

async function search(words) {
  filter = words.trim().toLowerCase();
  matches = null;
  draw();
  if (filter.length < 2) return;
  const asked = filter;
  const { searchMessages } = await import("./transfer.js");
  const found = await searchMessages(asked);
  if (asked !== filter) return;
  matches = found;
  draw();
}

function groupOf({ pinned, updated }) {
  if (pinned) return "Pinned";
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (updated >= midnight) return "Today";
  if (updated >= midnight - DAY_MS) return "Yesterday";
  if (updated >= midnight - 7 * DAY_MS) return "This week";
  return new Date(updated).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}

let drawn = "";

function draw() {
  const state = JSON.stringify([filter, [...(matches ?? [])], current.value.doc?.conv.id, [...runs.keys()], rail.value.list.map(({ id, title, pinned, kind }) => [id, title, pinned, kind])]);
  if (state !== drawn) redraw();
  drawn = state;
}

function redraw() {
  const place = byId("conversations");
  const focused = place.contains(document.activeElement) ? document.activeElement.dataset : null;
  const shown = rail.value.list.filter((conv) => !filter || conv.title.toLowerCase().includes(filter) || matches?.has(conv.id));
  const groups = Map.groupBy(shown.toSorted((a, b) => (b.pinned ? 1 : 0) - (a.pinned ? 1 : 0)), groupOf);
  place.replaceChildren(...[...groups].flatMap(([name, list]) =>
    [h("h3", { class: "day", text: name }), h("ul", {}, ...list.map(entry))]));
  if (!shown.length) place.append(h("p", { class: "muted pad", text: filter ? "Nothing found." : "Conversations are kept in this browser only." }));
  if (focused?.id) place.querySelector(`[data-id="${focused.id}"][data-part="${focused.part}"]`)?.focus({ preventScroll: true });
}

function entry(conv) {
  const open = current.value.doc?.conv.id === conv.id;
  const title = conv.title || "Untitled";
  const link = h("a", { href: `#/${conv.kind === "notebook" ? "n" : "c"}/${conv.id}`, "aria-current": open ? "page" : null,
    data: { id: conv.id, part: "link" }, title, on: { click: () => hooks.open(conv) } },
    h("span", { class: "title", text: title, dir: "auto" }),
    conv.kind === "notebook" && h("span", { class: "tag", text: "Notebook" }),
    runs.has(conv.id) && h("span", { class: "tag live", text: "writing" }));
  const menu = iconButton(`Menu of ${title}`, "dots", () => hooks.menu(conv, menu), { data: { id: conv.id, part: "menu" }, "aria-haspopup": "dialog" });
  return h("li", { data: { conv: conv.id } }, link, menu);
}

function moveFocus(event) {
  if (!event.target.matches("a")) return;
  const links = [...byId("conversations").querySelectorAll("a")];
  const at = links.indexOf(event.target);
  const next = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: links.length - 1 }[event.key];
  if (event.key === "Delete") remove(rail.value.list.find(({ id }) => id === event.target.dataset.id));
  else if (event.key === "F2") rename(rail.value.list.find(({ id }) => id === event.target.dataset.id));
  else if (next === -1) byId("search").focus();
  else if (next !== undefined) links[next]?.focus();
  else return;
  event.preventDefault();
}

/** Renames in place. */
export function rename(conv) {
  const row = byId("conversations").querySelector(`[data-conv="${conv.id}"]`);
  if (!row) return;
  const box = h("input", { type: "text", "aria-label": "Title", maxlength: 200, prop: { value: conv.title } });
  let over = false;
  const end = async (keep) => {
    if (over) return;
    over = true;
    const title = box.value.trim();
    if (keep && title && title !== conv.title) await saveConv(await loadDoc(conv.id), { title });
    redraw();
    byId("conversations").querySelector(`[data-id="${conv.id}"]`)?.focus();
  };
  box.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (submits(event, true)) end(true);
    else if (event.key === "Escape") end(false);
  });
  box.addEventListener("blur", () => end(true));
  row.replaceChildren(box);
  box.select();
}

/** Deletes with ten seconds to undo; the focus goes to the next conversation, then to *New chat*. */
export async function remove(conv) {
  const links = [...byId("conversations").querySelectorAll("a")];
  const at = links.findIndex(({ dataset }) => dataset.id === conv.id);
  const next = (links[at + 1] ?? links[at - 1])?.dataset.id;
  const doc = await loadDoc(conv.id);
  runs.get(conv.id)?.stop();
  const wasOpen = current.value.doc?.conv.id === conv.id;
  await saveConv(doc, { deleted: Date.now() });
  if (wasOpen) hooks.create();
  (byId("conversations").querySelector(`[data-id="${next}"]`) ?? byId("new")).focus();
  toast(`Deleted “${conv.title || "Untitled"}”`, "Undo", async () => {
    await saveConv(doc, { deleted: undefined });
    if (wasOpen) hooks.open(conv, true);
  });
}

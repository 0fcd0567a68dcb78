/** What to do when another tab changed a conversation. */

import { runs } from "./answer.js";
import { button } from "./dom.js";
import { current, keepDoc, loadDoc, loadList, saveConv } from "./state.js";
import { banner, say } from "./status.js";
import { newId } from "./store.js";

export async function changedElsewhere(id) {
  await loadList();
  const { doc } = current.value;
  if (doc?.conv.id !== id) return;
  say("This conversation changed in another tab");
  banner("tabs", "This conversation changed in another tab.",
    button("Reload", () => reload(id), { className: "small" }),
    button("Keep both", () => keepBoth(doc), { className: "small" }));
}

async function reload(id) {
  runs.get(id)?.stop();
  banner("tabs", null);
  const doc = await loadDoc(id, { fresh: true });
  if (doc) current.set({ doc: keepDoc(doc) });
}

/** What this tab shows goes on as a conversation of its own. */
async function keepBoth({ conv, messages }) {
  banner("tabs", null);
  const copy = { ...structuredClone(conv), id: newId(), title: `${conv.title} (copy)` };
  const ids = new Map([...messages.keys()].map((id) => [id, newId()]));
  const copies = [...messages.values()].map((message) => ({ ...message, conv: copy.id, id: ids.get(message.id), parent: ids.get(message.parent) ?? null }));
  copy.leaf = ids.get(conv.leaf) ?? null;
  copy.firstSeen = ids.get(conv.firstSeen);
  const doc = keepDoc({ conv: copy, messages: new Map() });
  await saveConv(doc, {}, { touch: true, messages: copies });
  location.hash = `#/${copy.kind === "notebook" ? "n" : "c"}/${copy.id}`;
}

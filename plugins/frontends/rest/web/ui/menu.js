/** The menu of a conversation in the list. */

import { openMenu } from "./dialog.js";
import { remove, rename } from "./rail.js";
import { loadDoc, saveConv } from "./state.js";
import { exportMarkdown, exportOne } from "./transfer.js";

export function showMenu(conv, opener) {
  return openMenu(opener, `Menu of ${conv.title || "Untitled"}`, [
    ["Rename", "edit", () => rename(conv)],
    [conv.pinned ? "Unpin" : "Pin", "up", async () => saveConv(await loadDoc(conv.id), { pinned: conv.pinned ? 0 : 1 })],
    ["Export as JSON", "download", async () => exportOne(await loadDoc(conv.id))],
    ["Export as Markdown", "download", async () => exportMarkdown(await loadDoc(conv.id))],
    ["Delete", "trash", () => remove(conv)],
  ]);
}

/** Dialogs and popovers: the list of keys, the API key, menus. What opens one gets the focus back. */

import { apiKey, request } from "./api.js";
import { button, h, iconButton, panelStyles, submits, uniqueId } from "./dom.js";
import { KEYS, MORE_KEYS, nameOf } from "./keys.js";
import { saveSettings, settings } from "./state.js";

/** A modal dialog with a title; gives it, open. `closed(returnValue)` is called at the end. */
export async function openDialog(title, content, { closed = () => {}, className = "" } = {}) {
  await panelStyles();
  const opener = document.activeElement;
  const label = uniqueId("dialog");
  const dialog = h("dialog", { class: `dialog ${className}`, "aria-labelledby": label },
    h("header", {}, h("h2", { id: label, text: title }), iconButton("Close", "close", () => dialog.close())), content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (opener?.isConnected) opener.focus({ preventScroll: true });
    closed(dialog.returnValue);
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A box beside the button that opened it; a click elsewhere or Esc closes it. A second press closes it too. */
export async function openPopover(opener, label, content, { className = "", closed = () => {} } = {}) {
  await panelStyles();
  const old = document.querySelector(".popover");
  const again = old?.opener === opener;
  old?.hidePopover();
  if (again) return null;
  const box = h("div", { class: `popover ${className}`, popover: "auto", role: "dialog", "aria-label": label, tabindex: "-1", prop: { opener } }, content);
  (opener.closest("dialog") ?? document.body).append(box);
  box.addEventListener("toggle", ({ newState }) => {
    if (newState !== "closed") return;
    const inside = box.contains(document.activeElement) || document.activeElement === document.body;
    box.remove();
    opener.setAttribute?.("aria-expanded", "false");
    if (inside) opener.focus?.({ preventScroll: true });
    closed();
  });
  box.showPopover();
  place(box, opener);
  opener.setAttribute?.("aria-expanded", "true");
  (box.querySelector("[autofocus], input, select, button, a") ?? box).focus({ preventScroll: true });
  return box;
}

/** Below the opener, or above it where there is no room, inside the window. */
export function place(box, opener) {
  const edge = 8;
  const { left, top, bottom, right } = opener.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = box;
  const fits = bottom + height + edge < innerHeight || bottom < innerHeight / 2;
  const start = left + width > innerWidth - edge ? right - width : left;
  box.style.left = `${Math.max(edge, Math.min(start, innerWidth - width - edge))}px`;
  box.style.top = `${Math.max(edge, fits ? Math.min(bottom + 4, innerHeight - height - edge) : top - height - 4)}px`;
}

/** A menu is a column of buttons: [label, icon, action]. */
export async function openMenu(opener, label, entries) {
  let box = null;
  const list = h("div", { class: "menu" }, ...entries.map(([text, iconName, action]) => button(text, () => {
    box.hidePopover();
    action();
  }, { iconName })));
  list.addEventListener("keydown", (event) => {
    const buttons = [...list.children];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    buttons.at((buttons.indexOf(document.activeElement) + step) % buttons.length).focus();
  });
  box = await openPopover(opener, label, list);
}

export function showKeys() {
  const row = (keys, text) => h("tr", {}, h("th", { scope: "row" }, h("kbd", { text: keys })), h("td", { text }));
  const box = h("input", { type: "checkbox", role: "switch", id: uniqueId("keys"), prop: { checked: settings.value.shortcuts },
    on: { change: () => saveSettings({ shortcuts: box.checked }) } });
  openDialog("Keyboard shortcuts", h("div", { class: "dialog-body" },
    h("table", { class: "keys" }, h("tbody", {}, ...KEYS.map(([code, modifiers, , text]) => row(nameOf(code, modifiers), text)),
      ...MORE_KEYS.map(([keys, text]) => row(keys, text)))),
    h("p", { class: "check" }, box, h("label", { for: box.id, text: "Use the keys with Ctrl and Alt" }))));
}

const REFUSED = "The server did not accept this key.";
let asking = false;

/** Asks for the API key; `done` is called when one was given. */
export async function askForKey(wrong, done) {
  if (asking) return;
  asking = true;
  const id = uniqueId("key");
  const box = h("input", { type: "password", id, autocomplete: "off", autofocus: true, "aria-invalid": wrong ? "true" : null,
    "aria-describedby": `${id}-note` });
  const keep = h("input", { type: "checkbox", id: `${id}-keep` });
  const note = h("p", { id: `${id}-note`, role: "status", text: wrong ? REFUSED : "This server wants an API key with every request." });
  const give = async () => {
    apiKey.set(box.value.trim(), keep.checked);
    try {
      await request("props");
    } catch (error) {
      if (error.status === 401) return refuse();
    }
    return dialog.close("given");
  };
  const refuse = () => {
    note.textContent = REFUSED;
    box.setAttribute("aria-invalid", "true");
    box.select();
  };
  box.addEventListener("keydown", (event) => submits(event, true) && (event.preventDefault(), give()));
  const dialog = await openDialog("API key", h("div", { class: "dialog-body" },
    note,
    h("label", { for: id, text: "Key" }), box,
    h("p", { class: "check" }, keep, h("label", { for: keep.id, text: "Remember it in this browser" })),
    h("div", { class: "buttons" }, button("Use this key", give, { className: "primary" }), button("Cancel", () => dialog.close()))),
  { closed: (value) => {
    asking = false;
    if (value === "given") done();
  } });
}

/** Asks to type a word before something that cannot be undone. */
export async function confirmTyped(title, text, word, action) {
  const id = uniqueId("confirm");
  const box = h("input", { type: "text", id, autocomplete: "off", autofocus: true });
  const go = button(title, () => {
    dialog.close();
    action();
  }, { className: "danger", disabled: true });
  box.addEventListener("input", () => (go.disabled = box.value.trim().toLowerCase() !== word));
  const dialog = await openDialog(title, h("div", { class: "dialog-body" }, h("p", { text }),
    h("label", { for: id, text: `Type “${word}” to go on` }), box, h("div", { class: "buttons" }, go, button("Cancel", () => dialog.close()))));
}

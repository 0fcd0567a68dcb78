/** The keys of the page. None is one that browsers keep, none is a single letter, none has Ctrl+Alt (AltGr). */

import { byId } from "./dom.js";
import { settings } from "./state.js";

/** [code or key, modifiers, command, what it does]; Ctrl stands for ⌘ on a Mac. */
export const KEYS = [
  ["KeyO", "ctrl shift", "new", "New chat"],
  ["KeyK", "ctrl", "search", "Search conversations"],
  ["KeyB", "ctrl", "rail", "Show or hide the conversations"],
  ["Comma", "ctrl", "settings", "Settings"],
  ["Enter", "ctrl shift", "regenerate", "Regenerate the last answer"],
  ["Enter", "alt", "continue", "Continue the last answer"],
  ["Semicolon", "ctrl shift", "code", "Copy the last code block"],
  ["KeyL", "ctrl shift", "last", "Go to the last answer"],
  ["KeyY", "ctrl shift", "probabilities", "Probabilities of the last answer"],
  ["KeyE", "ctrl shift", "export", "Export this conversation"],
  ["Slash", "ctrl", "keys", "This list"],
];

/** Keys that single boxes and lists have, for the list only. */
export const MORE_KEYS = [
  ["Enter", "Send, or a new line, as chosen in the settings; Ctrl+Enter always sends"],
  ["Shift+Enter", "New line"],
  ["Esc", "Close what is open; else stop writing; else go to the message box"],
  ["↑ in an empty box", "Edit the last own message"],
  ["F6, Shift+F6", "Next or previous region"],
  ["↑ ↓ Home End", "From message to message"],
  ["← →", "From branch to branch, on the branch arrows; from token to token in the probabilities"],
  ["F2, Delete", "Rename or delete, on a conversation"],
];

export const isMac = /Mac|iP(hone|ad|od)/.test(navigator.platform ?? "");

export const nameOf = (code, modifiers) => [
  ...modifiers.split(" ").map((part) => ({ ctrl: isMac ? "⌘" : "Ctrl", shift: "Shift", alt: isMac ? "⌥" : "Alt" })[part]),
  code.replace(/^Key/, "").replace("Comma", ",").replace("Semicolon", ";").replace("Slash", "/"),
].join("+");

const REGIONS = ["rail", "transcript", "composer", "notebook", "drawer"];

export function startKeys(commands) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.keyCode === 229) return;
    if (event.key === "F6") return region(event);
    if (event.key === "Escape") return escape(event, commands);
    if (!settings.value.shortcuts) return;
    const found = KEYS.find(([code, modifiers]) => pressed(event, code, modifiers));
    if (!found || document.querySelector("dialog:modal:not(.sheet)")) return;
    event.preventDefault();
    commands[found[2]]();
  });
}

/** By the letter on the key where there is one, else by its place: `/` needs Shift on some keyboards. */
function pressed(event, code, modifiers) {
  const main = isMac ? event.metaKey : event.ctrlKey;
  const wants = (name) => modifiers.split(" ").includes(name);
  if (main !== wants("ctrl") || event.altKey !== wants("alt")) return false;
  if (code === "Slash" && event.key === "/") return true;
  if (event.shiftKey !== wants("shift")) return false;
  return event.code === code || (code.startsWith("Key") && event.key.toLowerCase() === code.slice(3).toLowerCase());
}

/** A popover or dialog closes itself. */
function escape(event, commands) {
  if (document.querySelector("dialog[open], [popover]:popover-open")) return;
  event.preventDefault();
  commands.escape();
}

function region(event) {
  const shown = REGIONS.map(byId).filter((node) => node && node.checkVisibility());
  const at = shown.findIndex((node) => node.contains(document.activeElement));
  const next = shown.at((at + (event.shiftKey ? -1 : 1) + shown.length) % shown.length);
  event.preventDefault();
  const target = next.querySelector('article[tabindex="0"], a[aria-current], textarea, input, select, button:enabled, a');
  target?.focus();
}

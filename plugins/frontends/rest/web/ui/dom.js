/** Builds the page's nodes. Text goes in as text; no string ever becomes markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `props`: attributes by name, and `on` (listeners), `data` (data-* values), `text`, `prop` (properties).
 * An attribute that is null, undefined or false is left out; true gives an empty one.
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "prop") Object.assign(node, value);
    else if (name === "text") node.textContent = value;
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** One of the icons of index.html, hidden from assistive technology: its button carries the name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button with a visible label and, if named, an icon before it. */
export function button(label, action, { iconName, className = "", ...props } = {}) {
  return h("button", { type: "button", class: className, ...props, on: { click: action } },
    iconName ? icon(iconName) : null, h("span", { text: label }));
}

/** A button that shows an icon only; `label` is its accessible name and its tooltip. */
export function iconButton(label, iconName, action, props = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...props,
    on: { click: action } }, icon(iconName));
}

export const byId = (id) => document.getElementById(id);

let nextId = 0;

/** An id for `for`, `aria-describedby` and their like that no other element of the page has. */
export function uniqueId(stem) {
  nextId += 1;
  return `${stem}-${nextId}`;
}

/** Puts text on the clipboard; over plain http on a LAN there is no clipboard API, so a selection is copied. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const box = h("textarea", { class: "off-screen", readonly: true, "aria-hidden": "true", prop: { value: text } });
    const back = document.activeElement;
    (document.querySelector("dialog[open]") ?? document.body).append(box);
    box.select();
    const done = document.execCommand("copy");
    box.remove();
    back?.focus?.({ preventScroll: true });
    return done;
  }
}

/** Hands the reader a file. */
export function download(name, text, type = "application/json") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Whether a key event means "send". Never while an input method composes; by Ctrl+Enter always; by Enter alone
 * unless the reader, or a touch keyboard, wants Enter to make a new line.
 */
export function submits(event, enterSends) {
  if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return false;
  if (event.altKey) return false;
  if (event.ctrlKey || event.metaKey) return !event.shiftKey;
  return enterSends ? !event.shiftKey : false;
}

export const coarsePointer = () => matchMedia("(pointer: coarse)").matches;

/** Sizes and counts as people read them. */
export function bytes(size) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = size;
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export const count = (value) => Number(value).toLocaleString("en");
export const tokens = (n) => `${count(n)} ${n === 1 ? "token" : "tokens"}`;

export function seconds(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  return ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

let styled = null;

/** Loads the style sheet of the panels, once. */
export function panelStyles() {
  styled ??= new Promise((resolve) => {
    const link = h("link", { rel: "stylesheet", href: "ui/panels.css", on: { load: resolve, error: resolve } });
    document.head.append(link);
  });
  return styled;
}

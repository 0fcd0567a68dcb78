/** The settings beside the text: sampling, prompt, output, server. */

import { h, byId, iconButton, panelStyles } from "./dom.js";
import { getJson } from "./api.js";
import { readSamplers } from "./schema.js";
import { current, saveSettings, server } from "./state.js";
import { onRun } from "./answer.js";
import { alertReader } from "./status.js";

const TABS = { sampling: "Sampling", prompt: "Prompt", output: "Output", server: "Server" };
let tab = "sampling";
let shownDoc = null;
let pending = null; // a field that the server refused, until the tab shows it

/** Opens the drawer at a section; `sheet(node)` shows it as a dialog on a phone. */
export async function openDrawer(section, sheet) {
  await panelStyles();
  const node = byId("drawer");
  if (TABS[section]) tab = section;
  node.hidden = false;
  byId("settings").setAttribute("aria-expanded", "true");
  if (sheet) sheet(node);
  else saveSettings({ drawer: true });
  await draw();
  if (!pending) node.querySelector(`[role="tab"][aria-selected="true"]`).focus({ preventScroll: true });
}

export function closeDrawer() {
  const node = byId("drawer");
  if (node.closest("dialog")) return node.closest("dialog").close();
  node.hidden = true;
  byId("settings").setAttribute("aria-expanded", "false");
  saveSettings({ drawer: false });
  return byId("message").checkVisibility() && byId("message").focus({ preventScroll: true });
}

async function draw() {
  const node = byId("drawer");
  const name = tab;
  shownDoc = current.value.doc;
  const tabs = Object.entries(TABS).map(([key, text]) => h("button", { type: "button", role: "tab", id: `drawer-${key}`, "aria-controls": "drawer-panel",
    "aria-selected": String(key === tab), tabindex: key === tab ? 0 : -1, text, on: { click: () => choose(key) } }));
  const list = h("div", { class: "drawer-tabs", role: "tablist", "aria-label": "Settings", on: { keydown: arrows } }, ...tabs);
  const panel = h("div", { class: "drawer-panel", id: "drawer-panel", role: "tabpanel", "aria-labelledby": `drawer-${tab}` });
  node.replaceChildren(h("header", { class: "drawer-head" }, h("h2", { text: "Settings" }), iconButton("Close the settings", "close", closeDrawer)), list, panel);
  node.onkeydown = null;
  if (name === "sampling") await samplers().catch(() => {});
  const { fill } = await import(`./${name}.js`);
  if (name === tab && panel.isConnected) await fill(panel, shownDoc);
  if (pending && name === tab) land(pending);
}

function choose(key) {
  tab = key;
  return draw().then(() => byId(`drawer-${key}`).focus());
}

function arrows(event) {
  const keys = Object.keys(TABS);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  choose(keys.at((keys.indexOf(tab) + step) % keys.length));
}

/** The samplers of the server, asked for once. */
export async function samplers() {
  if (!server.value.samplers) {
    const found = readSamplers(await getJson("samplers"));
    server.set({ samplers: found });
  }
  return server.value.samplers;
}

/** The server refused a field: its control shows why, and has the focus. */
export async function showFieldError({ param, message, found, hint }) {
  pending = { param, text: [message, found, hint && `try: ${hint}`].filter(Boolean).join("; ") };
  await samplers().catch(() => {});
  tab = sectionOf(param);
  if (byId("drawer").hidden && !byId("drawer").closest("dialog")) byId("settings").click();
  else await draw();
}

function sectionOf(param) {
  if (/^(system|messages|prompt|template)/.test(param)) return "prompt";
  return /^(max_tokens|n_predict|stop|seed|grammar|json_schema|response_format|context_shift|top_logprobs|n_probs)/.test(param) ? "output" : "sampling";
}

const SAME = { n_predict: "max_tokens", json_schema: "grammar", response_format: "grammar" };

function land({ param, text }) {
  pending = null;
  const name = SAME[param] ?? param;
  const row = [...byId("drawer-panel").querySelectorAll("[data-field]")].find(({ dataset }) => dataset.field === name);
  if (!row) return;
  row.closest("details")?.setAttribute("open", "");
  row.update?.({ error: text });
  row.scrollIntoView({ block: "center" });
  row.querySelector("input, select, textarea")?.focus({ preventScroll: true });
  alertReader(text);
}

byId("drawer").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || byId("drawer").closest("dialog") || document.querySelector("[popover]:popover-open")) return;
  event.preventDefault();
  event.stopPropagation();
  byId("message").focus();
});
onRun((name) => {
  if (name !== "writing") return;
  for (const row of byId("drawer").querySelectorAll("[data-field]")) row.update?.({ error: "" });
});
current.subscribe(({ doc }) => {
  if (doc !== shownDoc && !byId("drawer").hidden) draw();
});
let known = server.value.props;
server.subscribe(({ props }) => {
  if (props === known) return;
  known = props;
  if (!byId("drawer").hidden) draw();
});

/** Redraws what the drawer shows, as after a preset. */
export const redraw = draw;

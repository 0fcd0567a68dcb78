/** All options of all samplers, made from what the server says of them. */

import { chainEditor } from "./chain.js";
import { control } from "./controls.js";
import { button, h } from "./dom.js";
import { redraw } from "./drawer.js";
import { presetRow } from "./presets.js";
import { inactive, shown } from "./schema.js";
import { saveConv, server } from "./state.js";
import { toast } from "./status.js";
import { REQUEST_FIELDS, usesTemplate } from "./wire.js";

const SEEN = "llamakit.defaults";
const IN_ORDER = new Set(["top_k", "tfs_z", "typical_p", "top_p", "min_p"]);

export async function fill(panel, doc) {
  const { samplers } = server.value;
  if (!samplers) return panel.append(h("p", { class: "problem", text: server.value.state === "locked" ? "The server wants an API key." : "The server's samplers are not known: it does not answer." }));
  const rows = new Map();
  const refresh = () => {
    for (const [field, row] of rows) row.update({ inactive: whyInactive(field, doc, samplers) });
    for (const one of panel.querySelectorAll(".reset-group")) one.hidden = !one.parentElement.querySelector(".changed:not([hidden])");
    counter.textContent = counted(doc);
    resetAll.hidden = !changedOf(doc).length;
  };
  const counter = h("span", { class: "counter" });
  const resetAll = button("Reset all", () => reset(doc, changedOf(doc), true), { className: "small bordered" });
  panel.append(presetRow(doc), h("div", { class: "changed-row" }, counter, resetAll), ...moved(samplers));
  panel.append(h("details", { class: "group" }, h("summary", {}, h("span", { text: "Chain" }), h("span", { class: "muted chain-text", text: (doc.conv.chain ?? samplers.chain).join(" → ") })),
    chainEditor(samplers, doc.conv.chain, (chain) => {
      saveConv(doc, { chain });
      panel.querySelector(".chain-text").textContent = (chain ?? samplers.chain).join(" → ");
      refresh();
    })));
  samplers.groups.forEach((group, index) => panel.append(section(group, doc, rows, refresh, index === 0)));
  panel.append(...orphans(doc, samplers));
  refresh();
  return undefined;
}

function section({ name, sampler, foreign, fields }, doc, rows, refresh, open) {
  const off = fields.every(({ name: field }) => doc.conv.params[field] === undefined);
  const details = h("details", { class: "group", prop: { open: open || foreign || !off } },
    h("summary", {}, h("span", { text: name }), foreign && h("span", { class: "muted", text: `${sampler.package} ${sampler.version ?? ""}` })));
  for (const each of fields) {
    const field = { ...each, default: defaultOf(each, doc) };
    const row = control(field, doc.conv.params[field.name], (value) => {
      const params = { ...doc.conv.params, [field.name]: value };
      if (value === undefined) delete params[field.name];
      saveConv(doc, { params });
      refresh();
    });
    rows.set(field, row);
    details.append(row);
  }
  if (fields.length > 1) details.append(button(`Reset ${name}`, () => reset(doc, fields.map(({ name: field }) => field)), { className: "small bordered reset-group" }));
  return details;
}

/** The default in force: notebooks and plain transcripts go to /completion, which has some of its own. */
function defaultOf({ name, default: usual }, { conv }) {
  if (conv.kind === "chat" && usesTemplate(conv)) return usual;
  return server.value.props?.default_generation_settings?.[name] ?? usual;
}

/** Names of the options that differ from the server's. */
const changedOf = (doc) => Object.keys(doc.conv.params).filter((name) => !REQUEST_FIELDS.has(name));

function counted(doc) {
  const n = changedOf(doc).length + (doc.conv.chain ? 1 : 0);
  return n ? `${n} changed` : "Everything as the server has it";
}

/** Back to the server's defaults, with a way back. */
function reset(doc, names, whole = false) {
  const { params: before, chain } = doc.conv;
  const params = Object.fromEntries(Object.entries(before).filter(([name]) => !names.includes(name)));
  if (Object.keys(params).length === Object.keys(before).length && !(whole && chain)) return;
  saveConv(doc, { params, chain: whole ? null : chain }).then(redraw);
  toast("Settings are back to the server's defaults", "Undo", () => saveConv(doc, { params: before, chain }).then(redraw));
}

function whyInactive(field, doc, { groups, chain, samplers }) {
  const fields = groups.flatMap((group) => group.fields);
  const of = (name) => fields.find((other) => other.name === name || other.key === name);
  const value = (name) => doc.conv.params[of(name)?.name] ?? of(name)?.default;
  const sampler = samplers.find(({ name }) => name === field.sampler);
  const reason = inactive(field, { value, titleOf: (name) => of(name)?.title ?? name, chain: doc.conv.chain ?? chain, chooses: sampler?.chooses || field.sampler === "mirostat" });
  return reason || (IN_ORDER.has(field.sampler) && value("mirostat") > 0 ? `not used while ${of("mirostat").title} is on` : "");
}

/** Defaults that the server had otherwise at the last visit; each is told once. */
function moved({ groups }) {
  const now = Object.fromEntries(groups.flatMap(({ fields }) => fields.map(({ name, default: value }) => [name, value])));
  let seen = null;
  try {
    seen = JSON.parse(localStorage.getItem(SEEN));
    localStorage.setItem(SEEN, JSON.stringify(now));
  } catch {
    return [];
  }
  const news = Object.entries(now).filter(([name, value]) => seen && name in seen && JSON.stringify(seen[name]) !== JSON.stringify(value));
  return news.map(([name, value]) => h("p", { class: "notice", text: `The server's default of ${name} is now ${shown(value)}.` }));
}

/** Options kept from elsewhere whose sampler is not installed here; they are not sent. */
function orphans(doc, { fields }) {
  const names = changedOf(doc).filter((name) => !fields.includes(name));
  if (!names.length) return [];
  return [h("details", { class: "group dimmed", prop: { open: true } }, h("summary", { text: "Not installed here" }),
    ...names.map((name) => h("p", { class: "orphan", data: { field: name } }, h("code", { text: name }), ` ${shown(doc.conv.params[name])}, not sent `,
      button("Remove", () => reset(doc, [name]), { className: "small bordered", "aria-label": `Remove ${name}` }))))];
}

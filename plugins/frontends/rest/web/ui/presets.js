/** Sets of settings by name. */

import { button, h, submits, uniqueId } from "./dom.js";
import { redraw } from "./drawer.js";
import { saveConv } from "./state.js";
import { toast } from "./status.js";
import { all, put, remove } from "./store.js";

const taken = ({ params, chain, grammar, system }) => structuredClone({ params, chain, grammar, system });

/** The choice of a preset, with *Save* and *Delete*. */
export function presetRow(doc) {
  const id = uniqueId("preset");
  const list = h("select", { id, on: { change: () => use(doc, list.value) } });
  const name = h("input", { type: "text", "aria-label": "Name of the preset", maxlength: 100, placeholder: "Name" });
  const save = async () => {
    if (!name.value.trim()) return name.focus();
    await put("presets", { name: name.value.trim(), ...taken(doc.conv), created: Date.now() });
    await fillList(list, name.value.trim());
    toast(`Preset “${name.value.trim()}” saved`);
    naming.hidden = true;
    return list.focus();
  };
  name.addEventListener("keydown", (event) => submits(event, true) && (event.preventDefault(), save()));
  const naming = h("div", { class: "slider-row", hidden: true }, name, button("Save", save, { className: "primary" }));
  const erase = button("Delete", () => drop(list), { className: "small bordered", "aria-label": "Delete the preset" });
  fillList(list, "");
  return h("div", { class: "preset" }, h("label", { for: id, text: "Preset" }), h("div", { class: "slider-row" }, list,
    button("Save…", () => {
      naming.hidden = false;
      name.value = list.value;
      name.focus();
    }, { className: "small bordered" }), erase), naming);
}

async function fillList(list, chosen) {
  const presets = await all("presets");
  list.replaceChildren(h("option", { value: "", text: presets.length ? "Choose…" : "Server default" }),
    ...(presets.length ? [h("option", { value: "\0", text: "Server default" })] : []), ...presets.map(({ name }) => h("option", { value: name, text: name })));
  list.value = chosen;
}

async function use(doc, name) {
  if (!name) return;
  const before = taken(doc.conv);
  const preset = name === "\0" ? { params: {}, chain: null, grammar: null, system: doc.conv.system } : (await all("presets")).find((one) => one.name === name);
  if (!preset) return;
  const { params = {}, chain = null, grammar = null, system = "" } = structuredClone(preset);
  await saveConv(doc, { params, chain, grammar, system });
  await redraw();
  toast(name === "\0" ? "Server defaults are in use" : `Preset “${name}” is in use`, "Undo", () => saveConv(doc, before).then(redraw));
}

async function drop(list) {
  const preset = (await all("presets")).find(({ name }) => name === list.value);
  if (!preset) return;
  await remove("presets", preset.name);
  await fillList(list, "");
  toast(`Preset “${preset.name}” deleted`, "Undo", async () => {
    await put("presets", preset);
    await fillList(list, preset.name);
  });
}

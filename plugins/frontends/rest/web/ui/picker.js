/** Which model answers, and which adapters this conversation uses. */

import { getJson } from "./api.js";
import { openPopover } from "./dialog.js";
import { bytes, count, h, iconButton, uniqueId } from "./dom.js";
import { current, saveConv, server } from "./state.js";
import { toast } from "./status.js";

export async function showPicker(opener) {
  const place = h("div", { class: "picker-body" }, h("p", { class: "muted", text: "Asking the server…" }));
  if (!(await openPopover(opener, "Model and adapters", place, { className: "wide" }))) return;
  try {
    const [{ data: found }, adapters] = await Promise.all([getJson("v1/models"), getJson("lora-adapters").catch(() => [])]);
    const data = found.map((model) => ({ ...model, ...model.meta }));
    place.replaceChildren(...models(data), ...adapterPart(adapters));
  } catch (error) {
    place.replaceChildren(h("p", { role: "alert", text: `The models are not known: ${error.message}` }));
  }
}

function models(list) {
  const { doc } = current.value;
  const chosen = doc.conv.model ?? server.value.props?.model;
  const name = uniqueId("model");
  const entries = list.map((model) => {
    const id = uniqueId("model");
    const radio = h("input", { type: "radio", name, id, value: model.id, prop: { checked: model.id === chosen }, on: { change: () => choose(model) } });
    return h("div", { class: "choice" }, radio, h("label", { for: id }, h("span", { text: model.id }), h("span", { class: "muted", text: about(model) })));
  });
  return [h("fieldset", {}, h("legend", { text: "Model of this conversation" }), ...entries)];
}

function about({ loaded, size, n_ctx: nCtx }) {
  const parts = [loaded ? "loaded" : "on disk, loads with the next message", size ? bytes(size) : "", nCtx ? `context ${count(nCtx)}` : ""];
  return parts.filter(Boolean).join(" · ");
}

function choose(model) {
  const usual = model.id === server.value.props?.model;
  saveConv(current.value.doc, { model: usual ? null : model.id, nCtx: usual ? undefined : model.n_ctx });
  toast(`${model.id} answers from the next message on`);
}

function adapterPart(list) {
  const legend = h("legend", { text: "Adapters of this conversation" });
  if (!list.length) return [h("fieldset", {}, legend, h("p", { class: "muted", text: "None is loaded; start the server with --lora FILE or --lora-watch DIR." }))];
  return [h("fieldset", {}, legend, ...list.map((adapter) => adapterRow(adapter, list)))];
}

/** The scales in force: those of the conversation, or the server's own. */
const scalesOf = (list) => new Map(list.map(({ name, scale }) => [name, current.value.doc.conv.adapters ? 0 : scale])
  .concat((current.value.doc.conv.adapters ?? []).map(({ name, scale }) => [name, scale])));

function adapterRow(adapter, list) {
  const id = uniqueId("adapter");
  const now = scalesOf(list).get(adapter.name) ?? 0;
  const on = h("input", { type: "checkbox", id, prop: { checked: now !== 0 } });
  const scale = h("input", { type: "number", step: "0.1", "aria-label": `Scale of ${adapter.name}`, prop: { value: now || adapter.scale || 1 } });
  const keep = () => {
    const value = Number(scale.value);
    const fine = scale.value !== "" && Number.isFinite(value) && Math.abs(value) <= 100;
    scale.setAttribute("aria-invalid", String(!fine));
    if (!fine) return;
    const scales = scalesOf(list).set(adapter.name, on.checked ? value : 0);
    saveConv(current.value.doc, { adapters: [...scales].map(([name, one]) => ({ name, scale: one })) });
  };
  const nudge = (step) => {
    scale.value = Number((Number(scale.value) + step).toFixed(2));
    on.checked = true;
    keep();
  };
  on.addEventListener("change", keep);
  scale.addEventListener("change", () => {
    on.checked = true;
    keep();
  });
  return h("div", { class: "choice adapter" }, on,
    h("label", { for: id }, h("span", { text: adapter.name }), h("span", { class: "muted", text: adapter.rank ? `rank ${adapter.rank}` : "" })),
    scale, iconButton(`Less of ${adapter.name}`, "minus", () => nudge(-0.1)), iconButton(`More of ${adapter.name}`, "plus", () => nudge(0.1)));
}

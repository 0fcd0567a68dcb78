/** A control for each kind of option: label, box, description, *changed* with its reset, and what is wrong. */

import { button, h, iconButton, uniqueId } from "./dom.js";
import { misfit, rangeText, same, shown } from "./schema.js";

/**
 * A row for `field` with its value (undefined: the default). `changed(value)` is called with every value that fits,
 * undefined for the default. The node has `update({value, inactive, error})`.
 */
export function control(field, value, changed) {
  const id = uniqueId("option");
  const row = { field, value, id, changed, error: "" };
  const single = !["radio", "pairs"].includes(field.kind);
  const note = h("p", { class: "about", id: `${id}-about` }, ...about(field));
  const problem = h("p", { class: "problem", id: `${id}-problem`, hidden: true });
  const state = h("p", { class: "inactive", id: `${id}-inactive`, hidden: true });
  const dot = h("span", { class: "changed", hidden: true, text: "● changed" });
  const back = iconButton("", "undo", () => row.give(undefined), { hidden: true, class: "icon-button reset" });
  const label = h(single ? "label" : "span", { id: `${id}-label`, for: single ? id : null, class: "option-label", text: field.title });
  const code = h("code", { class: "flat", text: field.name });
  row.give = (next) => {
    row.value = next === undefined || same(next, field.default) ? undefined : next;
    row.node.update({ value: row.value, error: "" });
    changed(row.value);
  };
  row.fail = (text) => row.node.update({ error: text });
  const part = (KINDS[field.kind] ?? KINDS.json)(row);
  const described = `${id}-about ${id}-problem ${id}-inactive`;
  for (const box of part.boxes) {
    box.setAttribute("aria-describedby", described);
    if (!box.labels?.length && !box.hasAttribute("aria-label")) box.setAttribute("aria-labelledby", `${id}-label`);
  }
  row.node = h("div", { class: `option kind-${field.kind}`, data: { field: field.name } },
    h("div", { class: "option-head" }, label, dot, back, code), part.node, unset(row, part), problem, state, note);
  row.node.update = (news) => update(row, part, { dot, back, problem, state }, news);
  row.node.update({ value });
  return row.node;
}

function update(row, part, { dot, back, problem, state }, news) {
  const { field } = row;
  if ("value" in news) {
    row.value = news.value;
    part.show(row.value === undefined ? field.default : row.value);
  }
  const differs = row.value !== undefined;
  dot.hidden = back.hidden = !differs;
  back.setAttribute("aria-label", `Reset ${field.title} to ${shown(field.default)}`);
  back.title = `Back to ${shown(field.default)}`;
  if ("error" in news) {
    problem.hidden = !news.error;
    problem.textContent = news.error;
    for (const box of part.boxes) box.setAttribute("aria-invalid", String(Boolean(news.error)));
  }
  if ("inactive" in news) {
    state.hidden = !news.inactive;
    state.textContent = news.inactive;
    row.node.classList.toggle("dimmed", Boolean(news.inactive));
  }
}

/** Two lines of the description, the rest on demand; then range and default. */
function about(field) {
  const range = h("span", { class: "range", text: rangeText(field) });
  if (!field.description) return [range];
  const text = h("span", { class: "description", text: field.description });
  if (field.description.length <= 110) return [text, " ", range];
  text.classList.add("cut");
  const more = h("button", { type: "button", class: "more-text", "aria-expanded": "false", text: "more", on: { click: () => {
    const cut = text.classList.toggle("cut");
    more.setAttribute("aria-expanded", String(!cut));
    more.textContent = cut ? "more" : "less";
  } } });
  return [text, " ", more, " ", range];
}

function unset(row, part) {
  if (!row.field.optional) return null;
  return button("Unset", () => {
    row.give(row.field.default === null ? undefined : null);
    part.show(null);
  }, { className: "small bordered", "aria-label": `Unset ${row.field.title}` });
}

/** Gives the value if it fits, else says why not and sends nothing. */
function offer(row, value) {
  const problem = misfit(row.field, value);
  if (problem) row.fail(`${row.field.title}: ${problem}`);
  else row.give(value);
}

const KINDS = { slider, number, seed, switch: toggle, radio, select, line, text, list, json, pairs };

function numberBox(row) {
  const { field } = row;
  const box = h("input", { type: "number", id: row.id, inputmode: field.integer ? "numeric" : "decimal", step: field.integer ? 1 : "any", min: field.min ?? null, max: field.max ?? null });
  box.addEventListener("change", () => offer(row, box.value === "" ? (field.optional ? null : field.default) : Number(box.value)));
  return box;
}

function slider(row) {
  const { field } = row;
  const { low, high, step, log } = field;
  const box = numberBox(row);
  const range = h("input", { type: "range", min: log ? 0 : low, max: log ? 1000 : high, step: log ? 1 : step, "aria-label": `${field.title}, slider` });
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const fromRange = () => (log ? Number((low * (high / low) ** (range.value / 1000)).toPrecision(3)) : Number(Number(range.value).toFixed(digits)));
  range.addEventListener("input", () => (box.value = fromRange()));
  range.addEventListener("change", () => offer(row, fromRange()));
  return {
    boxes: [box, range], node: h("div", { class: "slider-row" }, box, range),
    show: (value) => {
      box.value = value ?? "";
      range.value = log ? 1000 * Math.log(Math.max(value, low) / low) / Math.log(high / low) : (value ?? low);
    },
  };
}

function number(row) {
  const { field } = row;
  const box = numberBox(row);
  const step = Number(field.step) || 1;
  const nudge = (by) => offer(row, Number((Number(box.value || field.default || 0) + by).toPrecision(12)));
  return {
    boxes: [box], show: (value) => (box.value = value ?? ""),
    node: h("div", { class: "slider-row" }, box, iconButton(`Less ${field.title}`, "minus", () => nudge(-step)), iconButton(`More ${field.title}`, "plus", () => nudge(step))),
  };
}

function seed(row) {
  const box = h("input", { type: "text", id: row.id, inputmode: "numeric", placeholder: "random", autocomplete: "off" });
  box.addEventListener("change", () => {
    const text = box.value.trim();
    if (!text) return row.give(undefined);
    return /^\d{1,16}$/.test(text) && Number(text) <= Number.MAX_SAFE_INTEGER ? offer(row, Number(text)) : row.fail(`${row.field.title}: digits are needed, or nothing for a random one`);
  });
  const last = row.field.lastSeed && button("Use the last seed", () => row.field.lastSeed() !== undefined && row.give(row.field.lastSeed()), { className: "small bordered" });
  return { boxes: [box], node: h("div", { class: "slider-row" }, box, last), show: (value) => (box.value = value === null || value === undefined || value < 0 ? "" : value) };
}

function toggle(row) {
  const box = h("input", { type: "checkbox", role: "switch", id: row.id, on: { change: () => row.give(box.checked) } });
  return { boxes: [box], node: h("div", { class: "slider-row" }, box), show: (value) => (box.checked = Boolean(value)) };
}

function radio(row) {
  const boxes = row.field.choices.map((choice) => h("input", { type: "radio", name: row.id, id: uniqueId("choice"), on: { change: () => row.give(choice) } }));
  const node = h("div", { class: "radios", role: "radiogroup", "aria-labelledby": `${row.id}-label` },
    ...boxes.map((box, index) => h("span", { class: "radio" }, box, h("label", { for: box.id, text: shown(row.field.choices[index]) }))));
  return { boxes, node, show: (value) => boxes.forEach((box, index) => (box.checked = same(row.field.choices[index], value))) };
}

function select(row) {
  const { choices } = row.field;
  const box = h("select", { id: row.id }, ...choices.map((choice, index) => h("option", { value: index, text: shown(choice) })));
  box.addEventListener("change", () => row.give(choices[box.value]));
  return { boxes: [box], node: box, show: (value) => (box.value = choices.findIndex((choice) => same(choice, value))) };
}

function line(row) {
  const box = h("input", { type: "text", id: row.id, maxlength: row.field.schema.maxLength ?? null, autocomplete: "off" });
  box.addEventListener("change", () => offer(row, box.value));
  return { boxes: [box], node: box, show: (value) => (box.value = value ?? "") };
}

function text(row) {
  const box = h("textarea", { id: row.id, rows: 4, dir: "auto" });
  const mono = h("button", { type: "button", class: "small", "aria-pressed": "false", text: "Monospace",
    on: { click: () => mono.setAttribute("aria-pressed", String(box.classList.toggle("mono"))) } });
  box.addEventListener("change", () => offer(row, box.value));
  return { boxes: [box], node: h("div", {}, box, mono), show: (value) => (box.value = value ?? "") };
}

const escaped = (word) => word.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
const unescaped = (word) => word.replace(/\\(n|t|\\)/g, (_, char) => ({ n: "\n", t: "\t", "\\": "\\" })[char]);

/** One entry a line; what cannot be seen is written as an escape. */
function list(row) {
  const box = h("textarea", { id: row.id, rows: 3, class: "mono", placeholder: "one a line; \\n for a line break" });
  box.addEventListener("change", () => offer(row, box.value.split("\n").filter(Boolean).map(unescaped)));
  return { boxes: [box], node: box, show: (value) => (box.value = (value ?? []).map(escaped).join("\n")) };
}

function json(row) {
  const box = h("textarea", { id: row.id, rows: 4, class: "mono", spellcheck: "false" });
  box.addEventListener("change", () => {
    try {
      offer(row, box.value.trim() ? JSON.parse(box.value) : row.field.default);
    } catch (error) {
      row.fail(`${row.field.title}: this is not JSON: ${error.message}`);
    }
  });
  return { boxes: [box], node: box, show: (value) => (box.value = value === undefined || value === null ? "" : JSON.stringify(value, null, 1)) };
}

/** Tokens and their bias, from its own module. */
function pairs(row) {
  const node = h("div");
  let now = null;
  let draw = null;
  import("./bias.js").then(({ biasTable }) => {
    draw = biasTable(node, row);
    draw(now);
  });
  return { boxes: [], node, show: (value) => {
    now = value;
    draw?.(value);
  } };
}

/** How long an answer may be, when it stops, what shape it has, and how the page shows it. */

import { constraintBox } from "./constraint.js";
import { control } from "./controls.js";
import { button, h, uniqueId } from "./dom.js";
import { readField } from "./schema.js";
import { path, saveConv, saveSettings, server, settings } from "./state.js";
import { defaultLimit } from "./wire.js";

/** Options of every request that belong to no sampler. */
const FIELDS = {
  max_tokens: { title: "Longest answer", type: "integer", minimum: -1, default: -1, "x-ui": { step: 50 }, description: "Tokens at most; -1 = until the model ends." },
  seed: { title: "Seed", type: "integer", default: null, description: "The same seed, prompt and settings give the same text. Empty = another one each time." },
  stop: { title: "Stop words", type: "array", items: { type: "string" }, default: [], description: "The answer ends before any of these." },
  context_shift: { title: "Context shift", type: "boolean", default: false, description: "When the context is full, forget the oldest half instead of stopping." },
};

export function fill(panel, doc) {
  const limit = server.value.props?.limits?.max_predict;
  for (const [name, schema] of Object.entries(FIELDS)) {
    const own = { default: defaultLimit(doc.conv) ?? schema.default, ...(limit ? { maximum: limit } : {}) };
    const field = readField(name, name === "max_tokens" ? { ...schema, ...own } : schema);
    field.lastSeed = () => path(doc).findLast(({ seed }) => Number.isFinite(seed))?.seed;
    if (name === "max_tokens") field.kind = "number";
    panel.append(control(field, doc.conv.params[name], (value) => {
      const params = { ...doc.conv.params, [name]: value };
      if (value === undefined) delete params[name];
      saveConv(doc, { params });
    }));
  }
  panel.append(constraintBox(doc), probabilities(), h("h3", { text: "This page" }), ...pageSettings());
}

function check(text, name, about) {
  const id = uniqueId("setting");
  const box = h("input", { type: "checkbox", role: "switch", id, "aria-describedby": `${id}-about`, prop: { checked: settings.value[name] }, on: { change: () => saveSettings({ [name]: box.checked }) } });
  return h("div", { class: "option" }, h("div", { class: "check" }, box, h("label", { for: id, text })), h("p", { class: "about", id: `${id}-about`, text: about }));
}

const probabilities = () => check("Token probabilities", "probabilities", "Asks the server for the 8 most likely tokens at every step; answers get a little slower and larger.");

function choose(text, name, choices, about) {
  const id = uniqueId("setting");
  const box = h("select", { id, "aria-describedby": `${id}-about`, on: { change: () => saveSettings({ [name]: box.value }) } }, ...Object.entries(choices).map(([value, label]) => h("option", { value, text: label })));
  box.value = settings.value[name];
  return h("div", { class: "option" }, h("label", { class: "option-label", for: id, text }), box, h("p", { class: "about", id: `${id}-about`, text: about }));
}

const pageSettings = () => [
  choose("While writing", "follow", { follow: "Follow the text", top: "Stop at the top of the answer", never: "Never scroll" }, "Scrolling up always lets go."),
  choose("Enter", "enter", { auto: "By the kind of keyboard", send: "Sends", newline: "Makes a new line" }, "Ctrl+Enter always sends."),
  choose("Read answers aloud", "aloud", { off: "Off", end: "At the end", sentence: "By sentence" }, "For screen readers. Long answers are announced in one sentence."),
  check("Own messages as Markdown", "ownMarkdown", "Otherwise they are shown as they were typed."),
  check("Keys with Ctrl and Alt", "shortcuts", "Ctrl+/ lists them."),
  h("div", { class: "option" }, button("Delete all conversations…", async () => (await import("./transfer.js")).removeAll(), { className: "small bordered danger" })),
];


/** A grammar, a JSON Schema or an expression that the answer has to follow; the server checks it. */

import { ApiError, postJson } from "./api.js";
import { button, h, uniqueId } from "./dom.js";
import { narrowed } from "./narrow.js";
import { saveConv, server } from "./state.js";
import { constraint } from "./wire.js";

const KINDS = {
  gbnf: { title: "GBNF grammar", example: 'root ::= "yes" | "no"' },
  lark: { title: "Lark grammar", example: 'start: "yes" | "no"' },
  schema: { title: "JSON Schema", example: '{"type": "object", "properties": {"name": {"type": "string"}}}' },
  regex: { title: "Regular expression", example: "yes|no" },
};

export function constraintBox(doc) {
  const why = server.value.props?.grammar === false ? "Not available: no grammar sampler is installed on this server." : "";
  const now = { kind: "gbnf", text: "", on: false, ...doc.conv.grammar };
  const id = uniqueId("grammar");
  const problem = h("pre", { class: "problem", id: `${id}-problem`, role: "status", hidden: true });
  const box = h("textarea", { id, rows: 6, class: "mono", spellcheck: "false", disabled: Boolean(why), placeholder: KINDS[now.kind].example, "aria-describedby": `${id}-about ${id}-problem`, prop: { value: now.text } });
  const on = h("input", { type: "checkbox", role: "switch", id: uniqueId("use"), disabled: Boolean(why), prop: { checked: now.on } });
  const tell = (text) => {
    problem.hidden = !text;
    problem.textContent = narrowed(text);
    box.setAttribute("aria-invalid", String(Boolean(text)));
  };
  const keep = () => saveConv(doc, { grammar: now.text || now.on ? { ...now } : null });
  const kinds = Object.entries(KINDS).map(([value, { title }]) => {
    const radio = h("input", { type: "radio", name: id, id: uniqueId("kind"), disabled: Boolean(why), prop: { checked: now.kind === value }, on: { change: () => {
      now.kind = value;
      box.placeholder = KINDS[value].example;
      keep();
      check();
    } } });
    return h("span", { class: "radio" }, radio, h("label", { for: radio.id, text: title }));
  });
  const check = async () => {
    const wrong = now.text.trim() ? local(now) || (now.on ? await remote(now) : "") : "";
    tell(wrong);
    return wrong;
  };
  box.addEventListener("change", async () => {
    now.text = box.value;
    if (now.kind === "schema" && local(now)) {
      now.on = on.checked = false;
    }
    await keep();
    check();
  });
  on.addEventListener("change", async () => {
    now.on = on.checked;
    now.text = box.value;
    if (now.on && local(now)) now.on = on.checked = false;
    await keep();
    check();
  });
  const node = h("fieldset", { class: `option ${why ? "dimmed" : ""}`, data: { field: "grammar" } }, h("legend", { class: "option-label", text: "Grammar" }),
    h("div", { class: "check" }, on, h("label", { for: on.id, text: "The answer has to follow it" })), h("div", { class: "radios" }, ...kinds),
    h("label", { for: id, class: "visually-hidden", text: "What the answer has to follow" }), box, problem, h("p", { class: "about", id: `${id}-about`, text: why || "Checked by the server when it is switched on." }),
    !why && button("Check", check, { className: "small bordered" }));
  node.update = ({ error }) => tell(error);
  return node;
}

/** What can be said without the server: whether a schema is JSON, with the line and a caret. */
function local({ kind, text }) {
  if (kind !== "schema" || !text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    const at = /position (\d+)/.exec(error.message)?.[1];
    return at === undefined ? error.message : `${error.message}\n${caret(text, Number(at))}`;
  }
}

function caret(text, at) {
  const start = text.lastIndexOf("\n", at - 1) + 1;
  const end = text.indexOf("\n", at);
  const number = text.slice(0, at).split("\n").length;
  return `${String(number).padStart(4)} | ${text.slice(start, end < 0 ? text.length : end)}\n     | ${" ".repeat(at - start)}^`;
}

/** A request for no token at all: the server only reads the grammar. */
async function remote(now) {
  try {
    await postJson("completion", { prompt: "", n_predict: 0, stream: false, ...constraint(now) });
    return "";
  } catch (error) {
    if (!(error instanceof ApiError)) return "";
    return [error.message, error.found, error.hint && `try: ${error.hint}`].filter(Boolean).join("\n");
  }
}

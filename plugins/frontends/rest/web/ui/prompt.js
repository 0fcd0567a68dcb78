/** What is sent: the system prompt, the template, and the exact text that the model reads. */

import { postJson } from "./api.js";
import { seenBy } from "./answer.js";
import { button, count, h, uniqueId } from "./dom.js";
import { redraw } from "./drawer.js";
import { path, saveConv, server } from "./state.js";
import { PLAIN, answerRequest, usesTemplate } from "./wire.js";

export function fill(panel, doc) {
  const { conv } = doc;
  if (conv.kind === "notebook") {
    panel.append(h("p", { text: "A notebook is sent as it is: no template, no system prompt." }));
    return;
  }
  panel.append(systemBox(doc), templatePart(doc), exactPart(doc));
  if (conv.firstSeen) {
    panel.append(h("p", {}, "Older turns are not sent. ", button("Send them again", () => saveConv(doc, { firstSeen: undefined }).then(redraw), { className: "small bordered" })));
  }
}

function systemBox(doc) {
  const id = uniqueId("system");
  const box = h("textarea", { id, rows: 5, dir: "auto", "aria-describedby": `${id}-about`, prop: { value: doc.conv.system } });
  let timer = 0;
  const keep = () => {
    clearTimeout(timer);
    if (box.value !== doc.conv.system) saveConv(doc, { system: box.value });
  };
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(keep, 500);
  });
  box.addEventListener("change", keep);
  return h("div", { class: "option", data: { field: "system" } }, h("label", { class: "option-label", for: id, text: "System prompt" }), box,
    h("p", { class: "about", id: `${id}-about`, text: "Tells the model who it is and how to answer; part of every request of this conversation." }));
}

/** The model's own template, or a transcript with two names. */
function templatePart(doc) {
  const { props } = server.value;
  const plain = !usesTemplate(doc.conv);
  const names = { ...PLAIN, ...doc.conv.template };
  const set = (patch) => saveConv(doc, { template: { ...names, plain, ...patch } });
  const name = uniqueId("template");
  const choice = (text, value, disabled) => {
    const box = h("input", { type: "radio", name, id: uniqueId("template"), disabled, prop: { checked: plain === value }, on: { change: () => set({ plain: value }).then(redraw) } });
    return h("div", { class: "choice" }, box, h("label", { for: box.id, text }));
  };
  const nameBox = (text, key) => {
    const id = uniqueId("name");
    return h("div", { class: "slider-row" }, h("label", { for: id, text }), h("input", { type: "text", id, maxlength: 100, prop: { value: names[key] },
      on: { change: ({ target }) => set({ [key]: target.value.trim() || PLAIN[key] }) } }));
  };
  return h("fieldset", { class: "option" }, h("legend", { class: "option-label", text: "Template" }),
    choice(props?.chat === false ? "The model's own (this file has none)" : "The model's own", false, props?.chat === false), choice("Plain transcript", true),
    plain && nameBox("Your name", "user"), plain && nameBox("Its name", "bot"),
    props?.chat_template && h("details", {}, h("summary", { text: "Source of the model's template" }), h("pre", { class: "source", tabindex: "0", text: props.chat_template })));
}

function exactPart(doc) {
  const place = h("div", { "aria-live": "polite" });
  const show = async () => {
    place.replaceChildren(h("p", { class: "muted", text: "Asking the server…" }));
    try {
      const text = await exactPrompt(doc);
      const { tokens } = await postJson("tokenize", { content: text });
      place.replaceChildren(h("p", { text: `${count(tokens.length)} tokens, ${count(text.length)} characters` }), h("pre", { class: "source", tabindex: "0", text }));
    } catch (error) {
      place.replaceChildren(h("p", { class: "problem", text: error.message }));
    }
  };
  return h("div", { class: "option" }, button("Show the exact prompt", show), place);
}

async function exactPrompt(doc) {
  const { kind, body } = answerRequest(doc.conv, seenBy(doc.conv, path(doc)));
  if (kind !== "chat") return body.prompt;
  return (await postJson("apply-template", { messages: body.messages, model: body.model })).prompt;
}


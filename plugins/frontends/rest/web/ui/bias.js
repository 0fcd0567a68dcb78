/** The table of tokens with a bias: a text becomes token ids by the server's tokenizer. */

import { postJson } from "./api.js";
import { button, h, iconButton, submits } from "./dom.js";

/** Draws into `node`; `row.give` takes `[[id, bias or false], ...]`. Gives a function that shows a value. */
export function biasTable(node, row) {
  let pairs = [];
  const give = (next) => row.give(next.length ? next : undefined);
  const word = h("input", { type: "text", "aria-label": `${row.field.title}: text of the token`, placeholder: "text" });
  const bias = h("input", { type: "number", step: "any", "aria-label": `${row.field.title}: bias`, placeholder: "bias" });
  const add = async (value) => {
    if (!word.value || value === "") return row.fail(`${row.field.title}: a text and a bias are needed`);
    try {
      const { tokens } = await postJson("tokenize", { content: word.value });
      const known = new Set(tokens);
      give([...pairs.filter(([id]) => !known.has(id)), ...tokens.map((id) => [id, value])]);
      word.value = bias.value = "";
    } catch (error) {
      row.fail(`${row.field.title}: ${error.message}`);
    }
    return word.focus();
  };
  const addBias = () => add(bias.value === "" ? "" : Number(bias.value));
  for (const box of [word, bias]) box.addEventListener("keydown", (event) => submits(event, true) && (event.preventDefault(), addBias()));
  const body = h("tbody");
  node.replaceChildren(h("table", { class: "bias" }, body),
    h("div", { class: "slider-row" }, word, bias), h("div", { class: "slider-row" },
      button("Add bias", addBias, { className: "small bordered" }), button("Ban", () => add(false), { className: "small bordered" })));
  return (value) => {
    pairs = value ?? [];
    body.replaceChildren(...pairs.map(([id, amount]) => h("tr", {}, h("td", { text: `token ${id}` }), h("td", { text: amount === false ? "banned" : amount }),
      h("td", {}, iconButton(`Remove token ${id}`, "close", () => give(pairs.filter(([other]) => other !== id)))))));
  };
}

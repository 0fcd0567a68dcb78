/** The order of the samplers: which run, and when. Buttons beside dragging, so that nobody has to drag. */

import { button, h, iconButton } from "./dom.js";
import { same } from "./schema.js";
import { say } from "./status.js";

/** An editor for `chain` (null: the server's). `changed(chain or null)`. */
export function chainEditor({ chain: usual, samplers }, chain, changed) {
  const node = h("div", { class: "chain" });
  const chooses = new Set(samplers.filter((sampler) => sampler.chooses).map(({ name }) => name));
  let now = chain ?? usual;
  const give = (next, focus) => {
    now = next;
    changed(same(next, usual) ? null : next);
    draw();
    node.querySelector(`[data-act="${focus}"]:enabled`)?.focus();
  };
  const move = (name, step) => {
    const at = now.indexOf(name);
    const next = now.toSpliced(at, 1).toSpliced(at + step, 0, name);
    say(`${name} is now ${at + step + 1} of ${now.length}`);
    const stuck = at + step === 0 || at + step === now.length - 1;
    give(next, `${stuck ? (step < 0 ? "down" : "up") : step < 0 ? "up" : "down"}-${name}`);
  };
  const entry = (name, on) => {
    const at = now.indexOf(name);
    const box = h("input", { type: "checkbox", "aria-label": `Use ${name}`, data: { act: `use-${name}` }, prop: { checked: on } });
    box.addEventListener("change", () => give(on ? now.filter((other) => other !== name) : placed(now, name, chooses), `use-${name}`));
    const item = h("li", { draggable: on ? "true" : null, data: { name } }, box, h("span", { text: name }), chooses.has(name) && h("span", { class: "muted", text: "chooses" }),
      on && iconButton(`Move ${name} up`, "up", () => move(name, -1), { disabled: at === 0, "data-act": `up-${name}` }),
      on && iconButton(`Move ${name} down`, "down", () => move(name, 1), { disabled: at === now.length - 1, "data-act": `down-${name}` }));
    item.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", name));
    item.addEventListener("dragover", (event) => event.preventDefault());
    item.addEventListener("drop", (event) => {
      event.preventDefault();
      const moved = event.dataTransfer.getData("text/plain");
      if (!now.includes(moved) || !on) return;
      const rest = now.filter((other) => other !== moved);
      give(rest.toSpliced(rest.indexOf(name) + (now.indexOf(moved) < at ? 1 : 0), 0, moved));
    });
    return item;
  };
  const draw = () => {
    const off = samplers.map(({ name }) => name).filter((name) => !now.includes(name));
    const warn = now.length && !chooses.has(now.at(-1)) && `The last one, ${now.at(-1)}, does not choose a token.`;
    node.replaceChildren(h("ol", {}, ...now.map((name) => entry(name, true))),
      off.length ? h("p", { class: "muted", text: "Not in the chain" }) : "", h("ul", {}, ...off.map((name) => entry(name, false))),
      warn ? h("p", { class: "problem", role: "alert", text: warn }) : "",
      button("Reset the order", () => give(usual), { className: "small bordered", disabled: same(now, usual) }));
  };
  draw();
  return node;
}

/** A sampler goes before the one that chooses; one that chooses takes that one's place at the end. */
function placed(chain, name, chooses) {
  if (chooses.has(name)) return [...chain.filter((other) => !chooses.has(other)), name];
  const end = chain.length && chooses.has(chain.at(-1)) ? chain.length - 1 : chain.length;
  return chain.toSpliced(end, 0, name);
}

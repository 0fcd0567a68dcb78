/** The probabilities of an answer's tokens: five classes by tint and underline, and the alternatives of each. */

import { openPopover } from "./dialog.js";
import { button, h, panelStyles } from "./dom.js";
import { get } from "./store.js";
import { saveSettings, settings } from "./state.js";
import { stripChart } from "./surprise.js";

const LIMITS = [0.9, 0.5, 0.2, 0.05];
const CLASSES = ["90 % or more", "50 to 90 %", "20 to 50 %", "5 to 20 %", "below 5 %"];
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

/** 1 for a likely token … 5 for a very unlikely one. */
export const classOf = (p) => 1 + LIMITS.filter((limit) => p < limit).length;

export function percent(p) {
  if (p === null || p === undefined) return "not among the likeliest";
  return p < 0.001 ? "< 0.1 %" : `${(p * 100).toFixed(1)} %`;
}

/** Whitespace and broken bytes as something one can see. */
export function visible(text, bytes) {
  if (text.includes("\ufffd") && bytes) return bytes.map((byte) => (byte > 32 && byte < 127 ? String.fromCharCode(byte) : `‹${byte.toString(16).toUpperCase()}›`)).join("");
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

/** Shows the tokens of an answer in place of its text, or the text again. */
export async function inspect(view, actions) {
  const old = view.node.querySelector(".inspector");
  if (old) return close(view, old);
  await panelStyles();
  const spans = (await get("probs", view.message.id))?.spans ?? [];
  const inspector = h("section", { class: "inspector", "aria-label": "Token probabilities" });
  if (spans.length) fillInspector(inspector, view.message.text, spans, (from, text) => actions.fork(view.message, view.message.text.slice(0, from) + text));
  else inspector.append(offer(view, actions));
  inspector.append(button("Back to the text", () => close(view, inspector), { className: "small bordered" }));
  inspector.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("[popover]:popover-open")) return;
    event.preventDefault();
    event.stopPropagation();
    close(view, inspector);
  });
  view.body.hidden = true;
  view.body.after(inspector);
  return (inspector.querySelector('.token[tabindex="0"]') ?? inspector.querySelector("button")).focus();
}

function close(view, inspector) {
  inspector.remove();
  view.body.hidden = false;
  view.tools.querySelector('[data-tool="probabilities"]')?.focus({ preventScroll: true });
}

function offer(view, actions) {
  return h("p", {}, "No probabilities were kept for this answer. ", button("Switch them on and regenerate", () => {
    saveSettings({ probabilities: true });
    actions.regenerate(view.message);
  }, { className: "small bordered" }), h("span", { class: "about", text: settings.value.probabilities ? "" : "It asks the server for the 8 most likely tokens at every step." }));
}

/** Legend, chart and tokens. `use(from, text)` starts a branch with another token at a place of the text. */
export function fillInspector(place, text, spans, use) {
  const legend = h("p", { class: "legend" }, ...CLASSES.map((name, index) => h("span", { class: `token p${index + 1}`, text: name })),
    h("span", { class: "muted", text: spans[0].when === "after" ? "after the sampler chain" : "before the sampler chain" }));
  const group = h("div", { class: "tokens", role: "group", "aria-label": "Tokens: arrow keys move, Enter shows the alternatives" });
  const list = [];
  let at = 0;
  for (const { from, when, items } of spans) {
    if (from > at) group.append(text.slice(at, from));
    at = Math.max(at, from);
    for (const item of items) {
      const token = { ...item, from: at, when, node: tokenNode(item) };
      group.append(token.node);
      list.push(token);
      at += item.text.length;
    }
  }
  if (at < text.length) group.append(text.slice(at));
  if (list.length) list[0].node.tabIndex = 0;
  const nodes = new Map(list.map((token) => [token.node, token]));
  group.addEventListener("click", ({ target }) => nodes.has(target) && show(nodes.get(target), use));
  group.addEventListener("keydown", (event) => move(event, list, nodes, use));
  place.append(legend, stripChart(list), group);
}

function tokenNode({ text, p }) {
  return h("span", { class: `token p${classOf(p ?? 0)}`, role: "button", tabindex: "-1", "aria-haspopup": "dialog", "aria-label": `${visible(text)}, ${percent(p)}`, text });
}

function move(event, list, nodes, use) {
  const token = nodes.get(event.target);
  if (!token) return;
  const at = list.indexOf(token);
  let next = null;
  if (event.key === "Enter" || event.key === " ") show(token, use);
  else if (event.key in STEPS) next = list[at + STEPS[event.key]];
  else if (event.key === "ArrowUp" || event.key === "ArrowDown") next = lineAway(list, at, event.key === "ArrowUp" ? -1 : 1);
  else if (event.key === "Home" || event.key === "End") next = list.at(event.key === "Home" ? 0 : -1);
  else return;
  event.preventDefault();
  event.stopPropagation();
  if (!next) return;
  token.node.tabIndex = -1;
  next.node.tabIndex = 0;
  next.node.focus();
}

/** The token in the next line up or down that is nearest across. */
function lineAway(list, at, step) {
  const here = list[at].node.getBoundingClientRect();
  let best = null;
  let line = null;
  for (let other = at + step; list[other]; other += step) {
    const box = list[other].node.getBoundingClientRect();
    if (step * (box.top - here.top) < 4) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > 4) break;
    const away = Math.abs(box.left - here.left);
    if (!best || away < best.away) best = { away, token: list[other] };
  }
  return best?.token;
}

function show(token, use) {
  const { text, p, top, id, bytes, when, from } = token;
  const others = top.some((one) => one.text === text) || p === null ? top : [...top, { text, p }].sort((a, b) => b.p - a.p);
  const rest = 1 - others.reduce((sum, one) => sum + one.p, 0);
  const best = Math.max(...others.map((one) => one.p), 1e-9);
  const row = (one) => {
    const bar = h("span", { class: "prob-bar" });
    bar.style.width = `${(100 * one.p) / best}%`;
    const mine = one.text === text;
    return h("tr", {}, h("td", { class: "bar-cell" }, bar), h("td", {}, h("code", { text: `"${visible(one.text, one.bytes)}"` })), h("td", { class: "number", text: percent(one.p) }),
      h("td", {}, mine ? "chosen" : !one.text.includes("\ufffd") && button("Use", () => {
        box.then((popover) => popover?.hidePopover());
        use(from, one.text);
      }, { className: "small bordered", "aria-label": `Use ${visible(one.text)} instead` })));
  };
  const surprise = p ? ` · surprise ${(-Math.log2(p)).toFixed(1)} bits` : "";
  const facts = [id === undefined ? "" : `id ${id}`, bytes ? `bytes ${bytes.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}` : "",
    when === "after" ? "before ○ after ● chain" : "before ● after ○ chain"].filter(Boolean).join(" · ");
  const box = openPopover(token.node, `Alternatives to ${visible(text)}`, h("div", {},
    h("p", {}, h("strong", { text: `"${visible(text, bytes)}"` }), ` chosen · ${percent(p)}${surprise}`),
    h("table", { class: "alternatives" }, h("tbody", {}, ...others.map(row), rest > 0.0005 && h("tr", {}, h("td"), h("td", { text: "rest of the vocabulary" }), h("td", { class: "number", text: percent(rest) }), h("td")))),
    h("p", { class: "muted", text: facts })), { className: "alternatives-box" });
}

/** One message of the transcript: who, what, how it ended, and what can be done with it. */

import { copyText, h, icon, iconButton, seconds, tokens } from "./dom.js";
import { renderMarkdown, sourceOf } from "./markdown.js";
import { server, settings } from "./state.js";
import { StreamView } from "./stream.js";
import { say } from "./status.js";

const LARGEST_COLOURED = 50_000;

/** Code gets a bar with its language and *Copy*; a wide table a box that scrolls. */
function barOf(pre) {
  if (pre.previousElementSibling?.matches?.(".code-bar")) return;
  const lang = pre.getAttribute("data-lang") || "code";
  const copy = h("button", { type: "button", class: "small", on: { click: () => copied(copy, sourceOf(pre)) } },
    icon("copy"), h("span", { text: "Copy" }), h("span", { class: "visually-hidden", text: ` ${lang}` }));
  const wrap = h("button", { type: "button", class: "small", "aria-pressed": "false", text: "Wrap",
    on: { click: () => wrap.setAttribute("aria-pressed", String(pre.classList.toggle("wrapped"))) } });
  pre.before(h("div", { class: "code-bar" }, h("span", { class: "lang", text: lang }), wrap, copy));
  pre.tabIndex = 0;
}

export async function copied(button, text) {
  const label = button.querySelector("span") ?? button;
  const done = await copyText(text);
  label.textContent = done ? "Copied" : "Not copied";
  say(label.textContent);
  setTimeout(() => (label.textContent = "Copy"), 1500);
}

function colour(pre) {
  const lang = pre.getAttribute("data-lang");
  if (!lang || sourceOf(pre).length > LARGEST_COLOURED) return;
  import("./highlight.js").then(({ highlight }) => highlight(pre.firstChild, lang)).catch(() => {});
}

export const dressing = {
  opened: barOf,
  stable(node) {
    for (const pre of node.matches("pre") ? [node] : node.querySelectorAll("pre")) {
      barOf(pre);
      colour(pre);
    }
    for (const table of node.matches("table") ? [node] : node.querySelectorAll("table")) {
      const box = h("div", { class: "scroll-box", tabindex: "0", role: "region", "aria-label": "Table" });
      table.replaceWith(box);
      box.append(table);
    }
  },
};

export const wordCount = (text) => text.trim().split(/\s+/).filter(Boolean).length;

/** What the button of a branch, an action or a retry does is the transcript's: `actions` has a function for each. */
export class MessageView {
  constructor(doc, message, actions) {
    Object.assign(this, { doc, message, actions, stream: null });
    this.who = h("h2", { class: "who" });
    this.note = h("span", { class: "note" });
    this.byline = h("header", { class: "byline" }, this.who, this.note);
    this.thoughts = h("div", { class: "body thoughts", dir: "auto" });
    this.summary = h("summary", { text: "Reasoning" });
    this.reasoning = h("details", { class: "reasoning", hidden: true }, this.summary, this.thoughts);
    this.body = h("div", { class: "body", dir: "auto" });
    this.cards = h("div", { class: "cards" });
    this.tools = h("footer", { class: "tools" });
    this.node = h("article", { class: `message ${message.role}`, tabindex: "-1", data: { id: message.id } },
      this.byline, this.reasoning, this.body, this.cards, this.tools);
    this.renderBody();
  }

  /** The whole text; called once, and again only after an edit. */
  renderBody() {
    const { role, text, reasoning } = this.message;
    this.body.replaceChildren();
    if (role === "user" && !settings.value.ownMarkdown) this.body.textContent = text;
    else renderMarkdown(this.body, text, dressing.stable);
    this.body.classList.toggle("plain", role === "user" && !settings.value.ownMarkdown);
    this.thoughts.replaceChildren();
    if (reasoning) renderMarkdown(this.thoughts, reasoning, dressing.stable);
    this.showReasoning();
  }

  showReasoning() {
    const { reasoning } = this.message;
    this.reasoning.hidden = !reasoning;
    if (reasoning) this.summary.textContent = `Reasoning (${wordCount(reasoning)} words)`;
  }

  /** From now on the text grows by `draw`. */
  beginStream() {
    this.body.replaceChildren();
    this.thoughts.replaceChildren();
    this.stream = new StreamView(this.body, dressing);
    this.thinking = new StreamView(this.thoughts, dressing);
    this.shown = { text: 0, reasoning: 0 };
    this.node.setAttribute("aria-busy", "true");
    this.draw();
  }

  draw(final = false) {
    if (!this.stream) return;
    for (const [field, view] of [["text", this.stream], ["reasoning", this.thinking]]) {
      const whole = this.message[field] ?? "";
      view.append(whole.slice(this.shown[field]));
      this.shown[field] = whole.length;
      view.flush(final);
    }
    this.showReasoning();
  }

  endStream() {
    if (!this.stream) return;
    this.draw(true);
    this.stream = null;
    this.node.removeAttribute("aria-busy");
  }

  /** Everything around the text: number, byline, tools. Focus stays where it was; what is up to date is left alone. */
  refresh({ index, last, run, branches }) {
    const state = JSON.stringify([index, last, Boolean(run), branches.map(({ id }) => id), this.describe(), this.message.model, this.message.timings, this.message.error]);
    if (state === this.state) return;
    this.state = state;
    this.branches = branches;
    const { role, model } = this.message;
    const name = role === "user" ? "You" : model || server.value.props?.model || "Model";
    this.who.replaceChildren(name, h("span", { class: "visually-hidden", text: `, message ${index + 1}` }));
    this.note.textContent = this.describe();
    this.node.classList.toggle("last", last);
    const focused = this.tools.contains(document.activeElement) ? document.activeElement.dataset.tool : null;
    this.tools.replaceChildren(...this.makeTools(run).filter(Boolean));
    if (focused) (this.tools.querySelector(`[data-tool="${focused}"]`) ?? this.node).focus({ preventScroll: true });
    if (!run) this.showFailure();
  }

  describe() {
    const { adapters, stop, edited, usage, sent } = this.message;
    const parts = (adapters ?? []).filter(({ scale }) => scale).map(({ name, scale }) => `${name} ×${scale}`);
    if (stop === "stopped") parts.push("Stopped");
    if (stop === "limit") parts.push(`Reached the limit${usage?.completion_tokens ? ` of ${tokens(usage.completion_tokens)}` : ""}`);
    if (stop === "context") parts.push("The context is full");
    if (edited) parts.push("Edited");
    if (sent) parts.push(sent);
    return parts.join(" · ");
  }

  makeTools(run) {
    const { actions, message } = this;
    if (run) return [this.branchSwitch()];
    const tool = (name, label, iconName, action) => h("button", { type: "button", class: "small", data: { tool: name }, on: { click: action } },
      icon(iconName), h("span", { text: label }));
    const copy = tool("copy", "Copy", "copy", () => copied(copy, message.text));
    const edit = tool("edit", "Edit", "edit", () => actions.edit(this));
    if (message.role === "user") return [copy, edit, this.branchSwitch()];
    return [copy, edit,
      tool("regenerate", "Regenerate", "redo", () => actions.regenerate(message)),
      message.text && message.stop !== "context" && tool("continue", "Continue", "more", () => actions.continue(message)),
      message.stop === "limit" && tool("limit", "Raise the limit", "sliders", () => (location.hash = "#/s/output")),
      message.text && tool("probabilities", "Probabilities", "bars", () => actions.probabilities(this)),
      message.timings && h("button", { type: "button", class: "small quiet", data: { tool: "details" }, "aria-label": `Details: ${this.speed()}`,
        on: { click: (event) => actions.details(message, event.currentTarget) }, text: this.speed() }),
      this.branchSwitch()];
  }

  speed() {
    const { predicted_per_second: rate, predicted_ms: ms, prompt_ms: read = 0 } = this.message.timings;
    return `${Number(rate ?? 0).toFixed(1)} tok/s · ${seconds((ms ?? 0) + read)}`;
  }

  /** ‹ 2/3 ›: the arrows, or ← and → on either, show another branch. */
  branchSwitch() {
    const all = this.branches;
    const at = all.findIndex(({ id }) => id === this.message.id);
    if (all.length < 2 || at < 0) return null;
    const go = (step) => all[at + step] && this.actions.branch(all[at + step], step);
    const arrow = (label, name, step) => iconButton(label, name, () => go(step), { disabled: !all[at + step], "data-tool": `branch${step}` });
    const keys = (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      go(step);
    };
    return h("div", { class: "branches", role: "group", "aria-label": "Branches", on: { keydown: keys } },
      arrow("Previous branch", "left", -1), h("span", { text: `${at + 1}/${all.length}` }), arrow("Next branch", "right", 1));
  }

  /** A card for what went wrong, from its own module. */
  showFailure(failure = this.message.error, full = this.message.stop === "context") {
    this.cards.replaceChildren();
    if (full && !failure) import("./cards.js").then(({ fullCard }) => this.cards.replaceChildren(fullCard(this))).catch(() => {});
    if (failure) import("./cards.js").then(({ failureCard }) => this.cards.replaceChildren(failureCard(failure, this))).catch(() => {
      this.cards.replaceChildren(h("p", { class: "card error", text: failure.message }));
    });
  }
}

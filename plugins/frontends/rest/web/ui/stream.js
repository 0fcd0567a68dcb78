/** Text that grows: what is finished is never touched again, what is not is made equal to what it has become. */

import { closesFence, codeBlock, dedent, listElement, mayCloseFence, renderBlock, renderItem, scan, setSource } from "./markdown.js";

/** Renders Markdown that arrives in pieces into `target`. */
export class StreamView {
  #text = "";
  #held = ""; // a CR that may be half of a CRLF
  #done = 0; // where finished text ends
  #tail = null; // the element of the unfinished block
  #list = null; // the unfinished list, and how many of its items are finished
  #fence = null; // the unfinished top-level code block
  #frozen = null; // the plain text added to a block in which the reader selects
  #drawn = 0; // how much of the text is shown

  /** `stable(node)` is called with every finished node, `opened(pre)` with a code block that begins to grow. */
  constructor(target, { stable = () => {}, opened = () => {} } = {}) {
    Object.assign(this, { target, stable, opened });
  }

  get text() {
    return this.#text;
  }

  append(piece) {
    const whole = this.#held + piece;
    this.#held = whole.endsWith("\r") ? "\r" : "";
    this.#text += (this.#held ? whole.slice(0, -1) : whole).replace(/\r\n?/g, "\n");
  }

  /** Brings the DOM up to date; `final`: no more text will come. */
  flush(final = false) {
    if (final && this.#held) [this.#text, this.#held] = [`${this.#text}\n`, ""];
    if (!final && this.#freeze()) return;
    this.#thaw();
    this.#drawn = this.#text.length;
    for (;;) {
      if (this.#fence && !this.#growFence(final)) return;
      const block = scan(this.#text, this.#done, final);
      if (!block) return this.#dropTail();
      if (block.kind === "fence" && block.hasBody) this.#openFence(block);
      else if (block.kind === "list") this.#growList(block);
      else {
        this.#list = null;
        this.#replaceTail(renderBlock(block, 0));
      }
      if (this.#fence) continue;
      if (!block.closed) return;
      this.#finish(block);
    }
  }

  #dropTail() {
    this.#tail?.remove();
    this.#tail = null;
  }

  #replaceTail(node) {
    if (!this.#tail) this.target.append(node);
    this.#tail = this.#tail ? morph(this.#tail, node) : node;
  }

  #finish(block) {
    if (block.kind === "list") this.#list = null;
    else this.stable(this.#tail);
    this.#tail = null;
    this.#done = block.end;
  }

  /** Finished items stay; the last one is brought up to date. */
  #growList(block) {
    if (!this.#list) {
      this.#replaceTail(listElement(block));
      this.#tail.replaceChildren();
      this.#list = { finished: 0 };
    }
    const sure = block.closed ? block.items.length : block.sure;
    for (let index = this.#list.finished; index < block.items.length; index += 1) {
      const [old, node] = [this.#tail.children[index], renderItem(block.items[index], 0)];
      if (old) morph(old, node);
      else this.#tail.append(node);
      if (index < sure) this.stable(this.#tail.children[index]);
    }
    while (this.#tail.children.length > block.items.length) this.#tail.lastChild.remove();
    this.#list.finished = sure;
  }

  #openFence({ lang, mark, indent, body }) {
    this.#replaceTail(codeBlock(lang, ""));
    this.#tail.firstChild.replaceChildren(document.createTextNode(""));
    this.#fence = { mark, indent, at: body, shown: 0, code: "" };
    this.opened(this.#tail);
  }

  /** Extends the text of the code block; true once it is closed. A line that may close it waits. */
  #growFence(final) {
    const fence = this.#fence;
    const { length } = this.#text;
    let added = "";
    let closed = false;
    while (fence.at < length && !closed) {
      const newline = this.#text.indexOf("\n", fence.at);
      const complete = newline >= 0 || final;
      const line = this.#text.slice(fence.at, newline < 0 ? length : newline);
      closed = complete && closesFence(line, fence.mark);
      if (!closed && (complete || !mayCloseFence(line, fence.mark))) {
        const code = dedent(line, fence.indent);
        added += code.slice(fence.shown) + (newline < 0 ? "" : "\n");
        fence.shown = complete ? 0 : code.length;
      }
      if (!complete) break;
      fence.at = newline < 0 ? length : newline + 1;
    }
    if (added) this.#tail.firstChild.firstChild.appendData(added);
    fence.code += added;
    setSource(this.#tail, fence.code);
    if (!closed && !final) return false;
    this.#fence = null;
    this.#finish({ kind: "fence", end: fence.at });
    return true;
  }

  /** While the reader has selected text of the unfinished block, more of it is added as plain text. */
  #freeze() {
    const selection = document.getSelection();
    const touched = this.#tail && !this.#fence && !selection.isCollapsed && selection.containsNode(this.#tail, true);
    if (!touched) return false;
    if (!this.#frozen) {
      const blank = /\s$/.test(this.#text.slice(0, this.#drawn)) ? " " : ""; // rendering drops it at the end of a block
      this.#tail.append((this.#frozen = document.createTextNode(blank)));
    }
    this.#frozen.appendData(this.#text.slice(this.#drawn));
    this.#drawn = this.#text.length;
    return true;
  }

  #thaw() {
    this.#frozen?.remove();
    this.#frozen = null;
  }
}

/** Makes `old` equal to `fresh`, keeping every node that is equal already; gives the element that is in place. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return old;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || !sameAttributes(old, fresh)) {
    old.replaceWith(fresh);
    return fresh;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    if (fresh.data.startsWith(old.data)) old.appendData(fresh.data.slice(old.data.length));
    else old.data = fresh.data;
    return old;
  }
  if (old.localName === "pre") setSource(old, fresh.textContent);
  const wanted = [...fresh.childNodes];
  wanted.forEach((child, index) => (old.childNodes[index] ? morph(old.childNodes[index], child) : old.append(child)));
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
  return old;
}

const sameAttributes = (a, b) => a.attributes?.length === b.attributes?.length
  && [...(a.attributes ?? [])].every(({ name, value }) => b.getAttribute(name) === value);

/**
 * Emphasis, code spans and links of one run of Markdown, in time linear in its length.
 *
 * Text becomes tokens; runs of `*`, `_` and `~~` go on a list of delimiters that is matched once, inside each link
 * and then over the whole, as CommonMark does it. A token keeps which elements open after it and close before it.
 */

import { mathNode, readMath } from "./math.js";

const DEEPEST = 8;
const LONGEST_URL = 2000;
const LONG_HOST = 40;
const BARE_URL = /https?:\/\/[^\s<>"`]+/y;
const HOST_LIKE = /^(?:https?:\/\/)?((?:[\p{L}\p{N}-]+\.)+\p{L}{2,})/iu;
const SPECIAL = /[\\`*_~[\]!$\n]|https?:\/\//g;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const TAGS = { strong: "strong", em: "em", del: "del" };

/** Appends the run `text` to `parent`. */
export function inline(parent, text) {
  const run = new Run(text);
  run.read();
  match(run.delimiters, 0);
  build(parent, run.tokens);
}

class Run {
  constructor(text) {
    Object.assign(this, { text, at: 0, tokens: [], delimiters: [], brackets: [], linkedBelow: 0, ticks: null, noMath: false });
  }

  read() {
    const { text } = this;
    while (this.at < text.length) {
      SPECIAL.lastIndex = this.at;
      const found = SPECIAL.exec(text);
      const stop = found ? found.index : text.length;
      if (stop > this.at) this.put(text.slice(this.at, stop));
      this.at = stop;
      if (found) this.special(found[0]);
    }
  }

  put(text, more = {}) {
    this.tokens.push({ text, opens: [], closes: [], ...more });
    return this.tokens.at(-1);
  }

  take(length, more) {
    this.at += length;
    return this.put(this.text.slice(this.at - length, this.at), more);
  }

  special(char) {
    const { text, at } = this;
    if (char === "\n") return this.lineBreak(1);
    if (char === "\\") return this.escape();
    if (char === "`") return this.code();
    if (char === "$") return this.math();
    if (char === "[") return this.open(false);
    if (char === "!") return text[at + 1] === "[" ? this.open(true) : this.take(1);
    if (char === "]") return this.close();
    if (char.length > 1) return this.url();
    return this.delimiter(char);
  }

  lineBreak(length) {
    this.at += length;
    this.put("", { tag: "br" });
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") return this.lineBreak(2);
    if (next === "(" || next === "[") {
      const end = this.unclosed?.[next] ? -1 : this.text.indexOf(next === "(" ? "\\)" : "\\]", this.at + 2);
      if (end < 0) this.unclosed = { ...this.unclosed, [next]: true };
      else if (end > this.at + 2) return this.take(end + 2 - this.at, { tag: "code", className: "math" });
    }
    if (next && /[!-/:-@[-`{-~]/.test(next)) this.at += 1;
    return this.take(1);
  }

  /** A code span ends at the next run of as many backticks; where every run is, is found out once. */
  code() {
    if (!this.ticks) {
      this.ticks = new Map();
      for (const run of this.text.matchAll(/`+/g)) {
        const { length } = run[0];
        if (!this.ticks.has(length)) this.ticks.set(length, { places: [], next: 0 });
        this.ticks.get(length).places.push(run.index);
      }
    }
    let length = 1;
    while (this.text[this.at + length] === "`") length += 1;
    const start = this.at + length;
    const runs = this.ticks.get(length) ?? { places: [], next: 0 };
    while (runs.places[runs.next] < start) runs.next += 1;
    const end = runs.places[runs.next];
    if (end === undefined) return this.take(length);
    let inner = this.text.slice(start, end).replaceAll("\n", " ");
    if (inner.trim() && inner.startsWith(" ") && inner.endsWith(" ")) inner = inner.slice(1, -1);
    this.at = end + length;
    return this.put(inner, { tag: "code" });
  }

  /** Mathematics are set by math.js, or stay as written. */
  math() {
    const end = this.text[this.at + 1] === "$" && !this.noMath ? this.text.indexOf("$$", this.at + 2) : -2;
    if (end === -1) this.noMath = true;
    if (end < this.at + 3) return this.take(1);
    return this.take(end + 2 - this.at, { tag: "code", className: "math" });
  }

  url() {
    const { text, at } = this;
    const raw = bareUrl(text, at);
    const href = safeUrl(raw);
    if (!href) return this.take(text[at + 4] === "s" ? 8 : 7);
    return this.take(raw.length, { tag: "a", href });
  }

  delimiter(char) {
    const { text, at } = this;
    let length = 1;
    while (text[at + length] === char) length += 1;
    const [before, after] = [kindAt(text, at - 1), kindAt(text, at + length)];
    const left = after !== "space" && (after === "word" || before !== "word");
    const right = before !== "space" && (before === "word" || after !== "word");
    const inWord = char === "_" && left && right;
    const token = this.take(length);
    if (char === "~" && length !== 2) return;
    const canOpen = left && (!inWord || before === "mark");
    const canClose = right && (!inWord || after === "mark");
    if (canOpen || canClose) this.delimiters.push({ char, token, canOpen, canClose, left: length, length });
  }

  open(image) {
    const token = this.take(image ? 2 : 1);
    const label = image ? this.put("") : null;
    this.brackets.push({ token, label, image, from: this.delimiters.length });
  }

  close() {
    const bracket = this.brackets.pop();
    const linked = this.brackets.length < this.linkedBelow;
    this.linkedBelow = Math.min(this.linkedBelow, this.brackets.length);
    const target = bracket && (bracket.image || !linked) ? destination(this.text, this.at + 1) : null;
    const href = target && safeUrl(target.url);
    if (!target || (!href && !bracket.image)) return void this.take(1);
    match(this.delimiters, bracket.from);
    this.delimiters.length = bracket.from;
    const link = { tag: "a", href };
    bracket.token.opens.push(link);
    bracket.token.text = "";
    if (bracket.image) bracket.label.text = "[image: ";
    this.at = target.end;
    if (bracket.image) this.put("]");
    this.put("", { closes: [link] });
    if (!bracket.image) this.linkedBelow = this.brackets.length;
  }
}

function kindAt(text, at) {
  if (at < 0 || at >= text.length) return "space";
  const low = text.charCodeAt(at);
  const char = low >= 0xdc00 && low <= 0xdfff ? text.slice(at - 1, at + 1) : String.fromCodePoint(text.codePointAt(at));
  if (/\s/.test(char)) return "space";
  return PUNCTUATION.test(char) ? "mark" : "word";
}

/** Pairs the delimiters from `from` on. Failed searches set a floor, so that no stretch is searched twice. */
function match(delimiters, from) {
  const stack = [];
  const floors = new Map();
  for (let order = from; order < delimiters.length; order += 1) {
    const closer = delimiters[order];
    closer.order = order;
    while (closer.canClose && closer.left > 0) {
      const key = `${closer.char}${closer.canOpen}${closer.length % 3}`;
      const at = findOpener(stack, closer, floors.get(key) ?? -1);
      if (at < 0) {
        floors.set(key, order);
        break;
      }
      pair(stack[at], closer);
      stack.length = stack[at].left > 0 ? at + 1 : at;
    }
    if (closer.canOpen && closer.left > 0) stack.push(closer);
  }
}

function findOpener(stack, closer, floor) {
  for (let at = stack.length - 1; at >= 0 && stack[at].order >= floor; at -= 1) {
    const opener = stack[at];
    if (opener.char !== closer.char) continue;
    const odd = (opener.canClose || closer.canOpen) && (opener.length + closer.length) % 3 === 0;
    if (!odd || (opener.length % 3 === 0 && closer.length % 3 === 0) || closer.char === "~") return at;
  }
  return -1;
}

function pair(opener, closer) {
  const used = opener.left >= 2 && closer.left >= 2 ? 2 : 1;
  const tag = closer.char === "~" ? TAGS.del : used === 2 ? TAGS.strong : TAGS.em;
  opener.token.opens.unshift({ tag });
  closer.token.closes.push({ tag });
  for (const side of [opener, closer]) {
    side.left -= used;
    side.token.text = side.token.text.slice(used);
  }
}

function build(parent, tokens) {
  const parents = [parent];
  let pending = "";
  const flush = () => {
    if (pending) parents.at(-1).append(pending);
    pending = "";
  };
  for (const token of tokens) {
    if (token.closes.length) flush();
    for (const { tag } of token.closes) shut(parents, tag);
    if (token.tag) {
      flush();
      parents.at(-1).append(leaf(token));
      if (token.tag === "a") tellHost(parents.at(-1).lastChild);
    } else pending += token.text;
    if (token.opens.length) flush();
    for (const opened of token.opens) parents.push(parents.length > DEEPEST ? parents.at(-1) : open(parents.at(-1), opened));
  }
  flush();
}

function open(parent, { tag, href }) {
  const node = tag === "a" ? anchor(href) : document.createElement(tag);
  parent.append(node);
  return node;
}

function shut(parents, tag) {
  const node = parents.pop();
  if (tag === "a" && node !== parents.at(-1)) tellHost(node);
}

function leaf({ tag, text, href, className }) {
  const formula = className === "math" ? readMath(text) : null;
  if (formula) return mathNode(formula);
  const node = tag === "a" ? anchor(href) : document.createElement(tag);
  if (text) node.textContent = text;
  if (className) node.className = className;
  return node;
}

// ---- links

/** The URL that stands in running text at `at`, or nothing. */
function bareUrl(text, at) {
  if (/[\p{L}\p{N}]/u.test(text[at - 1] ?? " ")) return "";
  BARE_URL.lastIndex = at;
  return trimUrl(BARE_URL.exec(text)?.[0].slice(0, LONGEST_URL) ?? "");
}

/** What stands in the round brackets after `[text]`: the URL, and where the closing bracket ends. */
function destination(text, at) {
  if (text[at] !== "(") return null;
  let depth = 0;
  for (let end = at + 1; end < text.length && end - at < LONGEST_URL; end += 1) {
    const char = text[end];
    if (char === "(") depth += 1;
    if (depth > 32 || char === "<" || char === "\n") return null;
    if (/\s/.test(char)) return titled(text, at, end);
    if (char === ")" && depth === 0) return { url: text.slice(at + 1, end), end: end + 1 };
    if (char === ")") depth -= 1;
  }
  return null;
}

/** After a URL and a space a title in quotes may stand; it is not shown. */
function titled(text, at, space) {
  const rest = /[ \t]{1,8}(?:"[^"\n]{0,200}"|'[^'\n]{0,200}')?[ \t]{0,8}\)/y;
  rest.lastIndex = space;
  return rest.test(text) ? { url: text.slice(at + 1, space), end: rest.lastIndex } : null;
}

/** Punctuation after a URL, and a bracket that was opened before it, belong to the sentence. */
function trimUrl(url) {
  let end = url.length;
  let surplus = url.split(")").length - url.split("(").length;
  for (; end > 0; end -= 1) {
    const last = url[end - 1];
    if (last === ")" && surplus > 0) surplus -= 1;
    else if (!".,:;!?'\"*_~]".includes(last)) break;
  }
  return url.slice(0, end);
}

/** The address, if it is one that a link may lead to; relative ones and other schemes are not. */
function safeUrl(raw) {
  if (!raw || raw.length > LONGEST_URL) return null;
  try {
    const url = new URL(raw);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** A link, or a plain span where the address may not be followed. */
function anchor(href) {
  const node = document.createElement(href ? "a" : "span");
  if (!href) return node;
  node.setAttribute("href", href);
  node.setAttribute("rel", "noopener noreferrer nofollow ugc");
  node.setAttribute("target", "_blank");
  return node;
}

/** Where a link's text looks like another host than its real one, or the host is odd, the real one stands after it. */
function tellHost(node) {
  if (node.localName !== "a") return;
  const { protocol, hostname } = new URL(node.getAttribute("href"));
  if (protocol === "mailto:") return;
  const shown = HOST_LIKE.exec(node.textContent.slice(0, LONGEST_URL).trim())?.[1].toLowerCase();
  const odd = hostname.split(".").some((part) => part.startsWith("xn--")) || hostname.length > LONG_HOST;
  if ((shown && shown !== hostname) || (odd && shown !== hostname)) node.after(` (${hostname})`);
}

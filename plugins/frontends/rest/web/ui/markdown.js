/**
 * Markdown to DOM nodes. `scan` finds the next block and says whether more text could still change it; that is all
 * that streaming needs. Only complete lines decide anything, so a block once closed stays as it is.
 */

import { inline } from "./inline.js";

const DEEPEST = 8;
const LONGEST_BLOCK = 200_000;
const MOST_COLUMNS = 50;
const MOST_ROWS = 5000;
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/;
const sources = new WeakMap();

/** The exact source of a code block, for copying. */
export const sourceOf = (pre) => sources.get(pre) ?? pre.textContent;
export const setSource = (pre, source) => sources.set(pre, source);

export const normalise = (text) => text.replace(/\r\n?/g, "\n");

/** Renders a whole text. `stable(node)` is called with every finished node, as while streaming. */
export function renderMarkdown(parent, text, stable = () => {}) {
  const source = normalise(text);
  for (let at = 0, block; (block = scan(source, at, true)); at = block.end) {
    const node = renderBlock(block, 0);
    parent.append(node);
    (block.kind === "list" ? [...node.children] : [node]).forEach(stable);
  }
}

function lineAt(text, at, final) {
  const newline = text.indexOf("\n", at);
  const end = newline < 0 ? text.length : newline;
  return { text: text.slice(at, end), at, end, next: newline < 0 ? end : end + 1, complete: newline >= 0 || final };
}

/** The next block at or after `at`, or null where only blank lines are left. `final`: no more text will come. */
export function scan(text, at, final) {
  let line = lineAt(text, at, final);
  while (!line.text.trim()) {
    if (line.next >= text.length) return null;
    line = lineAt(text, line.next, final);
  }
  const kind = startOf(line.text);
  if (kind === "fence") return scanFence(text, line, final);
  if (kind === "list") return scanList(text, line, final);
  if (kind === "quote") return scanQuote(text, line, final);
  if (kind) return { kind, text: line.text, end: line.next, closed: line.complete };
  return tableHead(text, line, final) ? scanTable(text, line, final) : scanParagraph(text, line, final);
}

function startOf(line) {
  const fence = FENCE.exec(line);
  if (fence && !(fence[2][0] === "`" && fence[3].includes("`"))) return "fence";
  if (HEADING.test(line)) return "heading";
  if (isRule(line)) return "rule";
  if (QUOTE.test(line)) return "quote";
  const item = ITEM.exec(line);
  return item && item[1].length < 4 ? "list" : null;
}

function isRule(line) {
  const marks = line.replace(/[ \t]/g, "");
  return marks.length >= 3 && "*-_".includes(marks[0]) && marks === marks[0].repeat(marks.length) && !/^ {4}/.test(line);
}

/** Whether a line ends the paragraph before it. Numbers other than 1 and bare marks are taken for its text. */
function interrupts(line) {
  const kind = startOf(line);
  if (kind !== "list") return kind !== null;
  const [, , mark, , content] = ITEM.exec(line);
  return Boolean(content) && (mark.length === 1 || /^1[.)]$/.test(mark));
}

/** Whether `line` may close a fence of `mark`: certain for a complete line, possible for the beginning of one. */
export function closesFence(line, mark) {
  const inner = line.trim();
  return inner.length >= mark.length && inner === mark[0].repeat(inner.length) && !/^ {4}/.test(line);
}

export const mayCloseFence = (line, mark) => /^ {0,3}[`~]*[ \t]*$/.test(line) && !line.includes(mark[0] === "`" ? "~" : "`");

function fenceOf(line) {
  const [, indent, mark, info] = FENCE.exec(line);
  return { indent: indent.length, mark, lang: /^[\w+#.-]{0,32}/.exec(info.trim().split(/\s/, 1)[0])[0] };
}

/** A line without the indent of the fence or list item that it stands in; a tab counts for four spaces. */
export function dedent(line, width) {
  let cut = 0;
  for (let columns = 0; columns < width; cut += 1) {
    if (line[cut] === " ") columns += 1;
    else if (line[cut] === "\t" && columns + 4 <= width + 2) columns += 4;
    else break;
  }
  return line.slice(cut);
}

const indentOf = (line) => /^[ \t]*/.exec(line)[0].replaceAll("\t", "    ").length;

function scanFence(text, first, final) {
  const fence = fenceOf(first.text);
  const block = { kind: "fence", ...fence, body: first.next, hasBody: first.next > first.end };
  const code = [];
  for (let at = first.next; at < text.length;) {
    const line = lineAt(text, at, final);
    if (line.complete ? closesFence(line.text, fence.mark) : mayCloseFence(line.text, fence.mark)) {
      return { ...block, code: code.join(""), end: line.next, closed: line.complete };
    }
    code.push(dedent(line.text, fence.indent), line.next > line.end ? "\n" : "");
    at = line.next;
  }
  return { ...block, code: code.join(""), end: text.length, closed: final, open: true };
}

function scanQuote(text, first, final) {
  const lines = [];
  let line = first;
  for (;;) {
    lines.push(QUOTE.exec(line.text)[1]);
    if (line.next >= text.length) return { kind: "quote", text: lines.join("\n"), end: line.next, closed: final };
    line = lineAt(text, line.next, final);
    if (!QUOTE.test(line.text)) return { kind: "quote", text: lines.join("\n"), end: line.at, closed: line.complete };
  }
}

/** Items end where the next begins; lines indented by two or more belong to the item before them. */
function scanList(text, first, final) {
  const [, indent, mark] = ITEM.exec(first.text);
  const list = { kind: "list", ordered: mark.length > 1, number: parseInt(mark, 10), items: [], sure: 0 };
  let blanks = 0;
  for (let line = first; ; line = lineAt(text, line.next, final)) {
    const width = indentOf(line.text);
    const item = width <= indent.length + 1 && !isRule(line.text) ? ITEM.exec(line.text) : null;
    if (!line.text.trim()) blanks += 1;
    else if (item && item[2].length > 1 === list.ordered) {
      if (line.complete) list.sure = list.items.length;
      list.items.push({ lines: [item[4] ?? ""], width: width + item[2].length + Math.min(item[3]?.length ?? 1, 4) });
      blanks = 0;
    } else if (width >= indent.length + 2 || (!blanks && lazy(list, line.text))) {
      const { lines, width: deep } = list.items.at(-1);
      lines.push(...Array(blanks).fill(""), dedent(line.text, deep));
      blanks = 0;
    } else return { ...list, end: line.at, closed: line.complete };
    if (line.next >= text.length) return { ...list, end: line.next, closed: final };
  }
}

const lazy = (list, line) => !interrupts(line) && !FENCE.test(list.items.at(-1).lines.at(-1)) && !ITEM.test(line);

function scanParagraph(text, first, final) {
  const end = (line, closed) => ({ kind: "paragraph", text: text.slice(first.at, line), end: line, closed });
  let line = first;
  for (;;) {
    if (line.next >= text.length) return end(line.next, final);
    line = lineAt(text, line.next, final);
    if (!line.text.trim() || interrupts(line.text)) return end(line.at, line.complete);
    if (tableHead(text, line, final)) return end(line.at, lineAt(text, line.next, final).complete);
  }
}

function cells(line) {
  const row = line.trim().replace(/^\|/, "");
  const found = row.split(/(?<!\\)\|/, MOST_COLUMNS + 1);
  if (found.length > 1 && !found.at(-1).trim()) found.pop();
  return found.slice(0, MOST_COLUMNS).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** The alignments of a table's columns, if one begins with this line. */
function tableHead(text, line, final) {
  if (!line.text.includes("|") || line.next >= text.length) return null;
  const second = lineAt(text, line.next, final).text;
  if (!second.includes("-") || !/^[ \t|:-]+$/.test(second)) return null;
  const marks = cells(second);
  if (!marks.every((mark) => /^:?-+:?$/.test(mark)) || marks.length !== cells(line.text).length) return null;
  return marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : ""));
}

function scanTable(text, first, final) {
  const table = { kind: "table", align: tableHead(text, first, final), rows: [cells(first.text)] };
  let line = lineAt(text, first.next, final);
  for (;;) {
    if (line.next >= text.length) return { ...table, end: line.next, closed: final };
    line = lineAt(text, line.next, final);
    if (!line.text.includes("|") || startOf(line.text)) return { ...table, end: line.at, closed: line.complete };
    table.rows.push(table.rows.length <= MOST_ROWS ? cells(line.text) : line.text.trim());
  }
}

/** The element of a block. */
export function renderBlock(block, depth) {
  if (depth >= DEEPEST) return plainBlock(block.text ?? block.code ?? block.items?.map(itemText).join("\n") ?? "");
  return RENDER[block.kind](block, depth);
}

const RENDER = {
  paragraph: ({ text }) => withInline("p", trimLines(text)),
  rule: () => document.createElement("hr"),
  fence: ({ lang, code }) => codeBlock(lang, code),
  heading({ text }) {
    const [, marks, content = ""] = HEADING.exec(text);
    return withInline(`h${Math.min(6, marks.length + 2)}`, withoutClosingMarks(content.trim()));
  },
  quote: ({ text }, depth) => fill(document.createElement("blockquote"), text, depth),
  list(block, depth) {
    const list = listElement(block);
    for (const item of block.items) list.append(renderItem(item, depth));
    return list;
  },
  table: renderTable,
};

/** `## Title ##` is the same as `## Title`. */
function withoutClosingMarks(text) {
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || /[ \t]/.test(text[end - 1]) ? text.slice(0, end).trimEnd() : text;
}

const trimLines = (text) => text.split("\n").map((line) => line.trim()).join("\n").trim();
const itemText = ({ lines }) => lines.join("\n");

function plainBlock(text) {
  const node = document.createElement("p");
  node.textContent = text;
  return node;
}

function withInline(tag, text) {
  const node = document.createElement(tag);
  inline(node, text.slice(0, LONGEST_BLOCK));
  if (text.length > LONGEST_BLOCK) node.append(text.slice(LONGEST_BLOCK));
  return node;
}

function fill(node, text, depth) {
  if (text.length > LONGEST_BLOCK) node.append(plainBlock(text));
  else for (let at = 0, block; (block = scan(text, at, true)); at = block.end) node.append(renderBlock(block, depth + 1));
  return node;
}

/** A code block; its text may go on growing while it streams. */
export function codeBlock(lang, code) {
  const pre = document.createElement("pre");
  if (lang) pre.setAttribute("data-lang", lang);
  pre.append(document.createElement("code"));
  pre.firstChild.append(document.createTextNode(code));
  setSource(pre, code);
  return pre;
}

export function listElement({ ordered, number }) {
  const list = document.createElement(ordered ? "ol" : "ul");
  if (ordered && number !== 1) list.setAttribute("start", number);
  return list;
}

/** An item; its first paragraph stands in it without a `p`, whatever the other items look like. */
export function renderItem(item, depth) {
  const node = fill(document.createElement("li"), itemText(item), depth);
  const first = node.firstElementChild;
  if (first?.localName === "p") first.replaceWith(...first.childNodes);
  return node;
}

/** A table; rows beyond the limit stand as text in one last row. */
function renderTable({ align, rows }) {
  const table = document.createElement("table");
  const sections = [table.createTHead(), table.createTBody()];
  rows.slice(0, MOST_ROWS + 1).forEach((row, index) => {
    const line = document.createElement("tr");
    align.forEach((side, column) => {
      const cell = withInline(index ? "td" : "th", row[column] ?? "");
      if (side) cell.className = `align-${side}`;
      line.append(cell);
    });
    sections[Math.min(index, 1)].append(line);
  });
  const rest = rows.slice(MOST_ROWS + 1).join("\n");
  if (rest) sections[1].insertRow().insertCell().textContent = rest;
  return table;
}

/** Messages about a place in a text, for a column that is narrow. */

/** A message whose lines fit: of a line with a caret under it, what is around the caret; others wrap. */
export function narrowed(text, columns = 34) {
  const lines = text.split("\n");
  for (let at = 1; at < lines.length; at += 1) {
    const mark = /^[\s|]*\^+\s*$/.test(lines[at]) ? lines[at].indexOf("^") : -1;
    if (mark < 0 || lines[at - 1].length <= columns) continue;
    const head = /^\s*\d+ \| /.exec(lines[at - 1])?.[0] ?? "";
    const room = columns - head.length - 2;
    const from = Math.max(head.length, Math.min(mark - Math.floor(room / 2), lines[at - 1].length - room));
    const cut = (line, dots) => line.slice(0, head.length) + (from > head.length ? dots : " ") + line.slice(from, from + room);
    const more = from + room < lines[at - 1].length ? "…" : "";
    lines[at - 1] = cut(lines[at - 1], "…") + more;
    lines[at] = cut(lines[at], " ").slice(0, columns);
  }
  return lines.join("\n");
}

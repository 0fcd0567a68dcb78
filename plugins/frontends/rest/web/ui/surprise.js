/** The surprise of each token over an answer, as a strip of bars and in words. */

import { h } from "./dom.js";
import { visible } from "./probs.js";

const HEIGHT = 40;
const MOST_BITS = 10;

export function stripChart(tokens) {
  const known = tokens.filter(({ p }) => p > 0);
  if (known.length < 2) return "";
  const bits = known.map(({ p }) => -Math.log2(p));
  const sorted = bits.toSorted((a, b) => a - b);
  const most = bits.indexOf(sorted.at(-1));
  const text = `Surprise: median ${sorted[Math.floor(sorted.length / 2)].toFixed(1)} bits, highest ${sorted.at(-1).toFixed(1)} at “${visible(known[most].text).replace(/^␣/, "")}”`;
  const canvas = h("canvas", { class: "strip", height: HEIGHT, role: "img", "aria-label": text });
  requestAnimationFrame(() => draw(canvas, bits));
  return h("figure", { class: "surprise" }, canvas, h("figcaption", { class: "muted", text }));
}

/** One bar a token; where there are more tokens than pixels, the highest of each pixel. */
function draw(canvas, bits) {
  const width = Math.max(100, canvas.clientWidth);
  const ratio = window.devicePixelRatio || 1;
  [canvas.width, canvas.height] = [width * ratio, HEIGHT * ratio];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = getComputedStyle(canvas).color;
  const columns = Math.min(bits.length, Math.floor(width / 2));
  const step = Math.min(8, width / columns);
  for (let column = 0; column < columns; column += 1) {
    const part = bits.slice(Math.floor((column * bits.length) / columns), Math.max(Math.floor(((column + 1) * bits.length) / columns), Math.floor((column * bits.length) / columns) + 1));
    const height = Math.max(1, (Math.min(MOST_BITS, Math.max(...part)) / MOST_BITS) * HEIGHT);
    context.fillRect(column * step, HEIGHT - height, Math.max(1, step - 1), height);
  }
}

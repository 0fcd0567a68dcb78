/** Three ways out when a conversation does not fit: each says what it changes, in tokens. */

import { seenBy } from "./answer.js";
import { postJson } from "./api.js";
import { button, count, h } from "./dom.js";
import { path, saveConv, server } from "./state.js";

const KEPT_FOR_ANSWER = 400;

export async function waysOut(place, view) {
  const { doc, message, actions } = view;
  const shown = seenBy(doc.conv, path(doc, message.parent));
  const sizes = await Promise.all(shown.map(({ text }) => tokens(text)));
  const begun = message.text ? await tokens(message.text) : 0; // an answer that is to go on
  const total = sizes.reduce((sum, n) => sum + n, begun);
  const nCtx = server.value.props?.n_ctx ?? 0;
  const reserve = Math.min(doc.conv.params.max_tokens > 0 ? doc.conv.params.max_tokens : KEPT_FOR_ANSWER, nCtx / 2);
  const [dropped, left] = toDrop(sizes, total, (nCtx - reserve) * 0.95);
  const again = (patch) => saveConv(doc, patch).then(() => actions.retry(message));
  const params = (more) => ({ params: { ...doc.conv.params, ...more } });
  place.append(h("div", { class: "buttons" },
    dropped > 0 && button(`Drop oldest turns (now ${count(total)} → ${count(left)} tokens)`, () => again({ firstSeen: shown[dropped].id }), { className: "small bordered" }),
    button("Allow context shift", () => again(params({ context_shift: true })), { className: "small bordered" }),
    reserve > 64 && !begun && button(`Shorten the answer reserve (${count(reserve)} → ${count(Math.floor(reserve / 4))})`,
      () => again(params({ max_tokens: Math.floor(reserve / 4) })), { className: "small bordered" })));
}

async function tokens(text) {
  try {
    return (await postJson("tokenize", { content: text })).tokens.length + 4;
  } catch {
    return Math.ceil(text.length / 3.6) + 4;
  }
}

/** How many of the oldest messages have to go, whole turns at a time and one turn at least, and how many tokens are left. */
export function toDrop(sizes, total, room) {
  let left = total;
  let dropped = 0;
  while ((left > room || !dropped) && dropped + 2 < sizes.length) {
    left -= sizes[dropped] + sizes[dropped + 1];
    dropped += 2;
  }
  return [dropped, left];
}

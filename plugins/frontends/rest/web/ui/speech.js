/** What a screen reader hears of an answer: boundaries, and the text if the reader wants it. Never single tokens. */

import { byId, h, seconds } from "./dom.js";
import { current, settings } from "./state.js";
import { alertReader, say } from "./status.js";

const SHORT_WORDS = 120;
const SENTENCE_MS = 1500;
const FORGET_MS = 10_000;
const waiting = [];
let timer = 0;

export function announce(name, run) {
  const elsewhere = run.doc !== current.value.doc && run.doc.conv.title ? ` in “${run.doc.conv.title}”` : "";
  if (name === "writing") {
    say(`Writing${elsewhere}`);
    if (settings.value.aloud === "sentence" && !elsewhere) bySentence(run);
  } else if (name === "queued") say(run.state.value.ahead ? `Queued, ${run.state.value.ahead} ahead` : "Queued, next");
  else if (name === "loading") say("Loading model");
  else if (name === "busy") alertReader(run.state.value.error.message);
  else if (name === "stopped") say(`Stopped${elsewhere}`);
  else if (name === "failed") alertReader(run.failure.message);
  else if (name === "done") say(summary(run, elsewhere));
}

function summary({ message, text, began }, elsewhere) {
  if (message.stop === "context") return "The context is full";
  if (message.stop === "limit") return "Answer reached its limit";
  const words = text.trim().split(/\s+/).filter(Boolean).length;
  const told = `Answer complete${elsewhere}, ${words} words, ${seconds(Date.now() - began)}`;
  if (elsewhere || settings.value.aloud !== "end") return told;
  return words < SHORT_WORDS ? `${told}. ${text.trim()}` : `${told}. Press Ctrl+Shift+L to go to it`;
}

function bySentence(run) {
  let spoken = 0;
  const off = run.onText(() => {
    for (;;) {
      const end = /[.!?…](?=\s)|\n/.exec(run.text.slice(spoken));
      if (!end) return;
      queue(run.text.slice(spoken, spoken + end.index + 1));
      spoken += end.index + 1;
    }
  });
  run.done.finally(() => {
    off();
    queue(run.text.slice(spoken));
  });
}

function queue(sentence) {
  if (sentence.trim()) waiting.push(sentence.trim());
  if (timer || !waiting.length) return;
  speak();
  timer = setInterval(speak, SENTENCE_MS);
}

function speak() {
  const next = waiting.shift();
  if (next === undefined) {
    clearInterval(timer);
    timer = 0;
    return;
  }
  const node = h("p", { text: next });
  byId("spoken").append(node);
  setTimeout(() => node.remove(), FORGET_MS);
}

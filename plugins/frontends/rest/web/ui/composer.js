/** The box to write in. It shares nothing with the transcript, and is never disabled. */

import { running, runs } from "./answer.js";
import { byId, coarsePointer, submits } from "./dom.js";
import { current, keepDoc, saveConv, settings } from "./state.js";
import { actions, lastOwn, send } from "./transcript.js";

const DRAFT_MS = 500;

/** Whether Enter alone sends, by the setting and the kind of keyboard. */
export const enterSends = () => (settings.value.enter === "auto" ? !coarsePointer() : settings.value.enter === "send");

const growsByItself = CSS.supports("field-sizing", "content");

export function startComposer() {
  const box = byId("message");
  let timer = 0;
  let shown = null;
  const keepDraft = () => {
    clearTimeout(timer);
    timer = 0;
    if (!shown || shown.conv.draft === box.value) return;
    if (box.value || !shown.conv.unsaved) saveConv(keepDoc(shown), { draft: box.value });
  };
  const fit = () => {
    if (growsByItself) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight + 2}px`;
  };
  const put = (text) => {
    box.value = text;
    fit();
    box.dispatchEvent(new Event("input"));
  };
  box.addEventListener("input", () => {
    fit();
    if (!timer) timer = setTimeout(keepDraft, DRAFT_MS);
  });
  box.addEventListener("keydown", (event) => {
    if (submits(event, enterSends())) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !box.value && lastOwn() && !event.shiftKey) {
      event.preventDefault();
      actions.edit(lastOwn());
    }
  });
  const submit = () => {
    const text = box.value;
    if (!text.trim()) return;
    put("");
    clearTimeout(timer);
    timer = 0;
    send(text);
  };
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    const run = runs.get(current.value.doc?.conv.id);
    if (run && byId("send").dataset.does === "stop") run.stop();
    else submit();
  });
  current.subscribe(({ doc }) => {
    if (doc === shown) return;
    keepDraft();
    shown = doc;
    box.value = doc?.conv.draft ?? "";
    fit();
  });
  for (const type of ["pagehide", "visibilitychange"]) addEventListener(type, keepDraft);
  const label = () => {
    const stops = runs.has(current.value.doc?.conv.id);
    const button = byId("send");
    button.dataset.does = stops ? "stop" : "send";
    byId("send-text").textContent = stops ? "Stop" : "Send";
    byId("send-icon").setAttribute("href", stops ? "#i-stop" : "#i-send");
  };
  running.subscribe(label);
  current.subscribe(label);
  settings.subscribe(() => box.setAttribute("enterkeyhint", enterSends() ? "send" : "enter"));
  return { put, focus: () => box.focus({ preventScroll: true }) };
}

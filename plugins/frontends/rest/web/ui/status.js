/** The status line, the banner, the toasts and the one announcer for screen readers; the probe of a silent server. */

import { onRun, running, runs } from "./answer.js";
import { ApiError, getJson, request } from "./api.js";
import { button, byId, h, iconButton, seconds, tokens } from "./dom.js";
import { current, server } from "./state.js";

const REDRAW_MS = 250;
const SAY_MS = 1000;
const LONGEST_PROBE_S = 30;
const TOAST_MS = 10_000;

let unspoken = null;
let spokenAt = 0;
let sayTimer = 0;

/** Announces politely, at most once a second; a newer message replaces one not spoken yet. */
export function say(text) {
  unspoken = text;
  if (sayTimer) return;
  sayTimer = setTimeout(() => {
    byId("polite").textContent = unspoken;
    [sayTimer, spokenAt] = [0, Date.now()];
  }, Math.max(50, spokenAt + SAY_MS - Date.now()));
}

/** Announces at once what went wrong. */
export function alertReader(text) {
  byId("alert").textContent = "";
  setTimeout(() => (byId("alert").textContent = text), 50);
}

/** A note that goes away by itself, with an action such as *Undo*. */
export function toast(text, label, action) {
  const close = () => {
    clearTimeout(timer);
    if (node.contains(document.activeElement)) byId("message").focus();
    node.remove();
  };
  const node = h("div", { class: "toast" }, h("span", { text }),
    label && button(label, () => {
      close();
      action();
    }, { className: "small" }),
    iconButton("Dismiss", "close", close));
  const timer = setTimeout(close, TOAST_MS);
  byId("toasts").append(node);
  say(label ? `${text}. ${label} is offered` : text);
  return close;
}

const banners = new Map();

/** Shows, or with no text removes, the banner of one concern. */
export function banner(concern, text, ...buttons) {
  banners.get(concern)?.remove();
  banners.delete(concern);
  if (!text) return;
  const node = h("div", { class: "banner", data: { concern } }, h("span", { text }), ...buttons);
  banners.set(concern, node);
  byId("banners").append(node);
}

/** What a run is doing, in words: [symbol, text, progress 0..1 or null]. */
export function describe(run) {
  const { phase, ahead, progress, prompt, until, error } = run.state.value;
  switch (phase) {
    case "queued": return ["◔", ahead ? `queued, ${ahead} ahead` : "queued, next", null];
    case "loading": return ["◑", `loading model ${Math.round((progress ?? 0) * 100)} %`, progress ?? 0];
    case "reading": return reading(prompt);
    case "writing": return ["●", writing(run), null];
    case "busy": return ["◔", `${error?.message ?? "the server is busy"}; trying again in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`, null];
    case "stopping": return ["■", "stopping", null];
    case "stopped": return ["■", `stopped · ${tokens(run.tokens)}`, null];
    case "failed": return ["▲", error.message, null];
    case "done": return ["●", finished(run), null];
    default: return ["◔", "sending", null];
  }
}

function reading({ total, processed, cached = 0, ms }) {
  const done = total ? processed / total : 0;
  const rate = ms > 0 ? ` · ${Math.round(((processed - cached) * 1000) / ms)} tok/s` : "";
  return ["◐", `reading prompt ${Math.round(done * 100)} %${rate}`, done];
}

function writing(run) {
  const rate = run.rate === null ? "" : ` · ${run.rate.toFixed(1)} tok/s`;
  return `writing${rate} · ${tokens(run.tokens)} · first ${seconds(run.firstAt - run.began)}`;
}

function finished({ message, tokens: written }) {
  const { timings, usage } = message;
  const n = timings?.predicted_n ?? usage?.completion_tokens ?? written;
  const rate = timings?.predicted_per_second ? ` · ${timings.predicted_per_second.toFixed(1)} tok/s` : "";
  const why = { limit: "limit reached", context: "context full" }[message.stop] ?? "ready";
  return `${why} · ${tokens(n)}${rate}`;
}

let lastRun = null;

/** Keeps the line up to date: four times a second while something runs, not at all otherwise. */
export function startStatus() {
  let timer = 0;
  const draw = () => {
    const run = runs.get(current.value.doc?.conv.id);
    const [symbol, text, progress] = run ? describe(run) : idle();
    byId("status-symbol").textContent = symbol;
    byId("status-text").textContent = text;
    const bar = byId("status-bar");
    bar.hidden = progress === null || progress === undefined;
    if (!bar.hidden) bar.value = progress;
    byId("status").dataset.phase = run?.state.value.phase ?? server.value.state;
  };
  running.subscribe(({ count: n }) => {
    clearInterval(timer);
    timer = n ? setInterval(draw, REDRAW_MS) : 0;
    draw();
  });
  onRun((name, run) => {
    lastRun = run;
    draw();
  });
  server.subscribe((_, patch) => {
    if (patch.state === "ready") lastRun = null;
    draw();
  });
  current.subscribe(draw);
}

function idle() {
  const { state, retryAt, progress } = server.value;
  if (state === "gone") return ["▲", `server gone, trying again in ${Math.max(0, Math.ceil((retryAt - Date.now()) / 1000))} s`, null];
  if (state === "loading") return ["◑", `loading model ${Math.round((progress ?? 0) * 100)} %`, progress ?? 0];
  if (state === "draining") return ["▲", "the server is shutting down", null];
  if (state === "nomodel") return ["▲", "no model loaded", null];
  if (state === "locked") return ["▲", "an API key is needed", null];
  if (state === "starting") return ["◔", "connecting", null];
  const here = lastRun?.doc === current.value.doc && !lastRun.active;
  return here ? describe(lastRun) : ["●", "ready", null];
}

let probing = null;

/** Asks /health at 1, 2, 4 … 30 s, and when the network or the tab comes back, until the server is ready. */
export function probe(ready) {
  if (probing) return;
  const redraw = setInterval(() => server.set({}), 1000);
  let wait = 1;
  let timer = 0;
  const ask = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    const state = await health();
    if (state.state === "ready") return end();
    wait = state.state === "loading" ? 1 : Math.min(wait * 2, LONGEST_PROBE_S);
    server.set({ ...state, retryAt: Date.now() + wait * 1000 });
    timer = setTimeout(ask, wait * 1000);
  };
  const end = () => {
    clearInterval(redraw);
    removeEventListener("online", ask);
    document.removeEventListener("visibilitychange", ask);
    probing = null;
    ready();
  };
  probing = ask;
  addEventListener("online", ask);
  document.addEventListener("visibilitychange", ask);
  server.set({ retryAt: Date.now() + 1000 });
  timer = setTimeout(ask, 1000);
}

export const probeNow = () => probing?.();

async function health() {
  try {
    await request("health");
    return { state: "ready" };
  } catch (error) {
    if (!(error instanceof ApiError)) return { state: "gone" };
    if (error.status !== 503) return { state: "ready" };
    const text = `${error.code} ${error.message}`;
    return { state: /drain/i.test(text) ? "draining" : "loading", progress: error.progress ?? null };
  }
}

export const loadProps = () => getJson("props");

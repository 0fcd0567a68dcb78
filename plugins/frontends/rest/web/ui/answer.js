/** An answer in the making: sends the request, waits where it has to, keeps what came, and stops when told. */

import { ApiError, ServerGone, apiKey, events, request } from "./api.js";
import { Cell, path, saveConv, server, settings } from "./state.js";
import { get, put } from "./store.js";
import { answerRequest, readEvent } from "./wire.js";

const SAVE_MS = 2000;
const RATE_WINDOW_MS = 2000;
const MOST_TRIES = 5;
const LONGEST_WAIT_S = 60;
const CANCEL_MS = 2000;

/** Answers being written, by conversation; `running` tells when one begins or ends. */
export const runs = new Map();
export const running = new Cell({ count: 0 });

/** What happens to answers: listeners get `(name, run)` for "began", each phase entered, and "ended". */
const listeners = new Set();
export const onRun = (listener) => listeners.add(listener);

/** The messages of a path that the model sees: those from `firstSeen` on, where older ones were dropped. */
export function seenBy(conv, messages) {
  const from = messages.findIndex(({ id }) => id === conv.firstSeen);
  return messages.slice(Math.max(from, 0)).filter(({ text }) => text);
}

/** Starts the answer that `message` is to hold; text that it has already is continued. */
export function startAnswer(doc, message, { seed } = {}) {
  runs.get(doc.conv.id)?.stop();
  const history = seenBy(doc.conv, path(doc, message.parent));
  const seen = message.text ? [...history, message] : history;
  const ask = () => answerRequest(doc.conv, seen, { probabilities: settings.value.probabilities, seed });
  Object.assign(message, { params: { ...doc.conv.params }, adapters: doc.conv.adapters ?? message.adapters });
  const run = new Run(doc, message, ask);
  run.start();
  return run;
}

export class Run {
  state = new Cell({ phase: "sending" });
  text = "";
  reasoning = "";
  probs = [];
  tokens = 0;
  #ticks = [];
  #abort = new AbortController();
  #wake = () => {};
  #saved = 0;
  #drawers = new Set();

  /** `message` gets the text; `ask()` gives the request; `keep` writes what came so far. */
  constructor(doc, message, ask, { keep } = {}) {
    Object.assign(this, { doc, message, ask, base: message.text, baseReasoning: message.reasoning ?? "", began: Date.now() });
    if (keep) this.keep = keep;
  }

  get active() {
    return runs.get(this.doc.conv.id) === this;
  }

  /** Calls `draw` whenever there is more text. */
  onText(draw) {
    this.#drawers.add(draw);
    return () => this.#drawers.delete(draw);
  }

  /** Tokens a second over the last two seconds. */
  get rate() {
    const now = performance.now();
    this.#ticks = this.#ticks.filter((at) => now - at < RATE_WINDOW_MS);
    const span = now - (this.#ticks[0] ?? now);
    return span > 200 ? ((this.#ticks.length - 1) * 1000) / span : null;
  }

  start() {
    runs.set(this.doc.conv.id, this);
    running.set({ count: runs.size });
    this.#tell("began");
    this.done = this.#go().finally(() => this.#leave());
  }

  #leave() {
    if (this.active) runs.delete(this.doc.conv.id);
    running.set({ count: runs.size });
    this.#tell("ended");
  }

  #tell(name) {
    for (const listener of listeners) listener(name, this);
  }

  async #go() {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#once();
        return await this.#finish(this.stopping ? "stopped" : this.reason === "length" ? this.#limit() : "end");
      } catch (error) {
        if (this.stopping) return this.#finish("stopped");
        if (!(await this.#again(error, tries))) return this.#fail(error);
      }
    }
  }

  async #once() {
    const { kind, path: url, body } = this.ask();
    this.kind = kind;
    this.sent = body;
    const response = await request(url, { body, signal: this.#abort.signal });
    this.requestId = response.headers.get("X-Job-Id") ?? response.headers.get("X-Request-Id");
    this.ignored = response.headers.get("X-Ignored-Fields")?.split(/,\s*/) ?? [];
    if (server.value.state === "gone") server.set({ state: "ready" });
    let ended = false;
    for await (const event of events(response, this.#abort.signal)) {
      for (const part of readEvent(kind, event)) {
        this.#take(part);
        ended ||= part.type === "final";
      }
    }
    if (!ended && !this.#abort.signal.aborted) throw new ServerGone(new Error("the stream ended early"));
  }

  #take(part) {
    if (part.type === "text") this.#grow("text", part.text);
    else if (part.type === "reasoning") this.#grow("reasoning", part.text);
    else if (part.type === "probs") this.#probs(part);
    else if (part.type === "queue") this.#phase({ phase: "queued", ahead: part.ahead });
    else if (part.type === "loading") this.#phase({ phase: "loading", progress: part.progress });
    else if (part.type === "prompt") {
      this.promptTokens = part.total;
      this.#phase({ phase: "reading", prompt: part });
    }
    else if (part.type === "error") throw new ApiError(Number(part.error.code) || 500, part.error, null, this.requestId);
    else this.#final(part);
  }

  /** What ran out: the tokens of an answer, or the context. */
  #limit() {
    return this.message.details?.stop_reason === "context" ? "context" : "limit";
  }

  #phase(state) {
    const entered = this.state.value.phase !== state.phase || state.phase === "busy";
    this.state.set(state);
    if (entered) this.#tell(state.phase);
  }

  #grow(field, piece) {
    this.tokens += 1;
    this.#ticks.push(performance.now());
    this.firstAt ??= Date.now();
    this[field] += piece;
    this.message[field] = (field === "text" ? this.base : this.baseReasoning) + this[field];
    if (this.state.value.phase !== "writing") this.#phase({ phase: "writing" });
    for (const draw of this.#drawers) draw();
    if (Date.now() - this.#saved > SAVE_MS) this.save();
  }

  #probs({ when, items }) {
    const last = this.probs.at(-1);
    if (last) last.items.push(...items);
    else this.probs.push({ from: this.base.length, when, items: [...items] });
  }

  #final({ reason, usage, timings, details, model }) {
    if (reason) this.reason = reason;
    const { message } = this;
    if (usage) message.usage = usage;
    if (timings) message.timings = timings;
    if (model) message.model = model;
    if (details) Object.assign(message, { seed: details.seed ?? message.seed, details, adapters: details.adapters ?? message.adapters });
  }

  /** Keeps what there is now; nothing as long as there is no text. */
  save() {
    this.#saved = Date.now();
    if (this.text || this.reasoning) return this.keep();
    return Promise.resolve();
  }

  keep() {
    return saveConv(this.doc, { leaf: this.message.id }, { messages: [this.message] });
  }

  async #finish(stop) {
    Object.assign(this.message, { stop, error: null });
    if (this.ignored?.length) this.message.details = { ...this.message.details, ignored: this.ignored };
    if (this.message.text || this.message.reasoning) await this.keep();
    await this.#keepProbs();
    this.#phase({ phase: stop === "stopped" ? "stopped" : "done" });
  }

  async #keepProbs() {
    if (!this.probs.length) return;
    const old = this.base ? ((await get("probs", this.message.id))?.spans ?? []) : [];
    await put("probs", { message: this.message.id, spans: [...old.filter(({ from }) => from < this.base.length), ...this.probs] });
  }

  async #fail(error) {
    const { name, message, status = 0, code, param, found, hint, requestId } = error;
    this.failure = { name, message, status, code, param, found, hint, requestId, at: Date.now() };
    if (error instanceof ServerGone) server.set({ state: "gone" });
    if (status === 401) server.set({ state: "locked", wrongKey: Boolean(apiKey.get()) });
    if (this.text) Object.assign(this.message, { stop: "error", error: this.failure });
    await this.save();
    await this.#keepProbs();
    this.#phase({ phase: "failed", error: this.failure });
  }

  /** Whether to ask again, after waiting for a server that loads its model or is too busy. */
  async #again(error, tries) {
    if (this.text || !(error instanceof ApiError) || ![429, 503].includes(error.status)) return false;
    if (/loading/i.test(`${error.code} ${error.message}`)) {
      this.#phase({ phase: "loading", progress: error.progress ?? 0 });
      server.set({ state: "loading", progress: error.progress ?? 0 });
      await this.#until((wake) => server.subscribe(({ state }) => state === "ready" && wake()));
      return !this.stopping;
    }
    if (tries > MOST_TRIES || error.code === "out_of_memory") return false;
    const wait = Math.min(LONGEST_WAIT_S, error.retryAfter ?? 2 ** (tries - 1)) * 1000;
    const until = Date.now() + wait + Math.random() * Math.min(500, wait / 4);
    this.#phase({ phase: "busy", until, tries, error: { message: error.message, found: error.found } });
    await this.#until((wake) => {
      const timer = setTimeout(wake, until - Date.now());
      return () => clearTimeout(timer);
    });
    return !this.stopping;
  }

  /** Waits until `arm(wake)`'s event, *Retry now* or *Cancel*. */
  #until(arm) {
    return new Promise((resolve) => {
      let disarm = null;
      this.#wake = () => {
        queueMicrotask(() => disarm?.());
        resolve();
      };
      disarm = arm(this.#wake);
    });
  }

  retryNow() {
    this.#wake();
  }

  /** Stops the work on the server too; the answer counts as stopped once the server said so. */
  async stop() {
    if (this.stopping) return this.done;
    this.stopping = true;
    const cancelled = this.requestId
      ? request(`requests/${encodeURIComponent(this.requestId)}/cancel`, { method: "POST", signal: AbortSignal.timeout(CANCEL_MS) }).catch(() => {})
      : Promise.resolve();
    this.#phase({ ...this.state.value, phase: "stopping" });
    await cancelled;
    this.#abort.abort();
    this.#wake();
    return this.done;
  }
}

/** A page that is left, or hidden, keeps what its answers hold by then. */
for (const type of ["pagehide", "visibilitychange"]) {
  addEventListener(type, () => {
    if (type === "pagehide" || document.hidden) for (const run of runs.values()) run.save();
  });
}

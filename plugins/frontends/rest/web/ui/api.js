/** Talks to the server: requests, errors in its one shape, and server-sent events. Every URL is relative. */

const KEY = "llamakit.key";

/** What the server says is wrong: `message`, and where known `param`, `found`, `hint`. */
export class ApiError extends Error {
  constructor(status, body, retryAfter, requestId) {
    super(body.message || `the server answered ${status}`);
    const { code = "", param = "", found = "", hint = "", type = "" } = body;
    Object.assign(this, { status, code, param, found, hint, type, retryAfter, requestId });
  }
}

/** No answer at all: the server is gone, or the network is. */
export class ServerGone extends Error {
  constructor(cause) {
    super("the server does not answer");
    this.cause = cause;
  }
}

/** The API key: of this tab, or of this browser if the reader chose so. */
export const apiKey = {
  get() {
    return tryStorage(() => sessionStorage.getItem(KEY) ?? localStorage.getItem(KEY)) ?? apiKey.kept ?? "";
  },
  set(value, remember) {
    apiKey.kept = value;
    tryStorage(() => sessionStorage.setItem(KEY, value));
    tryStorage(() => (remember ? localStorage.setItem(KEY, value) : localStorage.removeItem(KEY)));
  },
  forget() {
    apiKey.kept = "";
    tryStorage(() => sessionStorage.removeItem(KEY));
    tryStorage(() => localStorage.removeItem(KEY));
  },
};

function tryStorage(action) {
  try {
    return action();
  } catch {
    return null;
  }
}

/** One request; throws `ApiError` for an answer that is none, `ServerGone` where there is no answer. */
export async function request(path, { body, signal, method = body === undefined ? "GET" : "POST" } = {}) {
  const headers = {};
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    response = await fetch(path, { method, headers, body: text, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerGone(error);
  }
  if (!response.ok) throw await readError(response);
  return response;
}

export const getJson = async (path, options) => (await request(path, options)).json();
export const postJson = async (path, body, options) => (await request(path, { body, ...options })).json();

async function readError(response) {
  const text = await response.text().catch(() => "");
  let body = {};
  try {
    const parsed = JSON.parse(text);
    const { error } = parsed;
    if (error && typeof error === "object") body = error;
    else if (typeof error === "string") body = { message: error };
    body = { ...body, message: body.message ?? parsed.status, progress: parsed.loading?.progress ?? parsed.progress };
  } catch {
    body = { message: text.slice(0, 300) };
  }
  const failure = new ApiError(response.status, body, retryAfter(response), response.headers.get("X-Request-Id"));
  failure.progress = body.progress;
  return failure;
}

function retryAfter(response) {
  const value = response.headers.get("Retry-After");
  if (!value) return null;
  const wait = Number(value);
  return Number.isFinite(wait) ? wait : Math.max(0, (Date.parse(value) - Date.now()) / 1000) || null;
}

/** Splits a stream of text into the data of server-sent events, wherever the stream was cut. */
export class EventSplitter {
  #rest = "";
  #data = [];

  /** Takes the next piece and gives the data of the events it completed. */
  push(piece) {
    this.#rest += piece;
    const found = [];
    let start = 0;
    for (;;) {
      const end = this.#lineEnd(start);
      if (!end) break;
      this.#line(this.#rest.slice(start, end.at), found);
      start = end.next;
    }
    this.#rest = this.#rest.slice(start);
    return found;
  }

  /** Gives what the stream ended with, were it not followed by a blank line. */
  end() {
    const found = [];
    if (this.#rest) this.#line(this.#rest.replace(/\r$/, ""), found);
    this.#rest = "";
    this.#line("", found);
    return found;
  }

  /** Where the line ends and the next begins; a CR at the very end may be half of a CRLF and has to wait. */
  #lineEnd(start) {
    for (let at = start; at < this.#rest.length; at += 1) {
      if (this.#rest[at] === "\n") return { at, next: at + 1 };
      if (this.#rest[at] !== "\r") continue;
      if (at + 1 === this.#rest.length) return null;
      return { at, next: this.#rest[at + 1] === "\n" ? at + 2 : at + 1 };
    }
    return null;
  }

  #line(line, found) {
    if (line === "") {
      if (this.#data.length) found.push(this.#data.join("\n"));
      this.#data = [];
    } else if (line.startsWith("data:")) {
      this.#data.push(line.slice(line[5] === " " ? 6 : 5));
    } else if (line.startsWith("error:")) {
      this.#data.push(`{"error":${line.slice(6)}}`);
    }
  }
}

/** The events of a streamed answer as objects, up to `[DONE]` or the end. A cut connection throws `ServerGone`. */
export async function* events(response, signal) {
  const splitter = new EventSplitter();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read();
      for (const data of done ? splitter.end() : splitter.push(value)) {
        if (data === "[DONE]") return;
        yield JSON.parse(data);
      }
      if (done) return;
    }
  } catch (error) {
    if (error.name === "AbortError" || signal?.aborted) throw new DOMException("stopped", "AbortError");
    throw error instanceof SyntaxError ? new ApiError(502, { message: "the stream is not JSON" }) : new ServerGone(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}

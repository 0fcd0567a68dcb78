// The module for page authors: text from the server's /completion, as an async generator, a promise or events.
//
//     import { llama } from '/completion.js'
//     for await (const chunk of llama('Once upon a time', { n_predict: 64 })) {
//       document.body.append(chunk.data.content)
//     }
//
// Works in browsers and in Node 18 or newer, where `config.api_url` says which server.

const DEFAULTS = { stream: true, n_predict: 500, temperature: 0.2, stop: ['</s>'] };

// The settings that the server reported last; llamaModelInfo() asks for them where none came yet.
let generationSettings = null;

/** An error that the server answered: `status` (HTTP), `code`, `param` and the whole `body` where it gave them. */
export class LlamaError extends Error {
  constructor(message, details = {}) {
    super(message);
    this.name = 'LlamaError';
    Object.assign(this, details);
  }
}

/**
 * Completes a prompt. Yields `{ data }` for each event, `data` as POST /completion documents it; the last one has
 * `data.stop` true. Returns the whole text.
 *
 * `params`: any request field, and `api_key`. `config`: `controller` (an AbortController that stops it),
 * `api_url` (default: the server the page came from), `api_key`.
 *
 * Leaving the loop closes the connection, and with it the work on the server. An error, also one in the middle
 * of a stream, throws `LlamaError`; an abort throws the AbortError of `fetch`.
 */
export async function* llama(prompt, params = {}, config = {}) {
  const { api_key = config.api_key, ...fields } = params;
  const own = new AbortController();
  const outer = config.controller?.signal;
  const forward = () => own.abort(outer.reason);
  if (outer?.aborted) forward();
  outer?.addEventListener('abort', forward);
  try {
    const body = { ...DEFAULTS, ...fields, prompt };
    const response = await request('/completion', body, { ...config, api_key }, own.signal);
    if (!body.stream) return yield* whole(await response.json());
    return yield* streamed(response);
  } finally {
    outer?.removeEventListener('abort', forward);
    own.abort();
  }
}

/**
 * The same as events of an EventTarget: `message` (detail: the data of a chunk), `generation_settings` and
 * `timings` from the last chunk, then `done` (detail: `{ content }`); or `error` (detail: the error).
 */
export const llamaEventTarget = (prompt, params = {}, config = {}) => {
  const target = new EventTarget();
  const tell = (type, detail) => target.dispatchEvent(event(type, detail));
  (async () => {
    let content = '';
    for await (const { data } of llama(prompt, params, config)) {
      content += data.content ?? '';
      tell('message', data);
      if (data.generation_settings) tell('generation_settings', data.generation_settings);
      if (data.timings) tell('timings', data.timings);
    }
    tell('done', { content });
  })().catch((error) => tell('error', error));
  return target;
};

/** The same as a promise of the whole text. */
export const llamaPromise = async (prompt, params = {}, config = {}) => {
  let content = '';
  for await (const { data } of llama(prompt, params, config)) content += data.content ?? '';
  return content;
};

/** Deprecated, use `llama`: calls `callback` with each chunk. */
export const llamaComplete = async (params, controller, callback) => {
  for await (const chunk of llama(params.prompt, params, { controller })) callback(chunk);
};

/** The model's name and generation settings: those reported last, else those of GET /model.json. */
export const llamaModelInfo = async (config = {}) => {
  generationSettings ??= await (await request('/model.json', undefined, config)).json();
  return generationSettings;
};

// -- how -------------------------------------------------------------------------------------------------------

async function request(path, body, { api_url = '', api_key }, signal) {
  const headers = { Accept: body?.stream ? 'text/event-stream' : 'application/json' };
  if (body) headers['Content-Type'] = 'application/json';
  if (api_key) headers.Authorization = `Bearer ${api_key}`;
  const init = body ? { method: 'POST', body: JSON.stringify(body), headers, signal } : { headers, signal };
  const response = await fetch(api_url.replace(/\/+$/, '') + path, init);
  if (!response.ok) throw failure(await response.text(), response.status);
  return response;
}

/** The error of a body: `{"error": {"message", "code", ...}}`, `{"message"}` or plain text. */
function failure(text, status) {
  let body = text;
  try {
    body = JSON.parse(text);
  } catch {
    // plain text: of a proxy, or of a server of 2023
  }
  const error = body?.error ?? body;
  const message = (typeof error === 'string' ? error : error?.message) || `the server answered ${status}`;
  return new LlamaError(message, { status, code: error?.code, param: error?.param, body });
}

function* whole(data) {
  if (data.generation_settings) generationSettings = data.generation_settings;
  yield { data };
  return data.content;
}

async function* streamed(response) {
  let content = '';
  for await (const chunk of serverSentEvents(response.body)) {
    if (chunk.data === '[DONE]') return content;
    if (chunk.event === 'error' || chunk.error !== undefined) throw failure(chunk.error ?? chunk.data, response.status);
    const data = JSON.parse(chunk.data);
    if (data.error) throw failure(chunk.data, response.status);
    if (data.generation_settings) generationSettings = data.generation_settings;
    content += data.content ?? '';
    yield { ...chunk, data };
    if (data.stop) return content;
  }
  throw new LlamaError('the stream ended before the answer did', { status: response.status });
}

/** Events of a byte stream, however it is cut: `{ event, id, data, ... }` with only the fields that were sent. */
async function* serverSentEvents(stream) {
  let fields = {};
  for await (const line of lines(stream)) {
    if (line === '') {
      if ('data' in fields || 'error' in fields) yield fields;
      fields = {};
      continue;
    }
    const colon = line.indexOf(':');
    if (colon === 0) continue; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
    fields[name] = name === 'data' && 'data' in fields ? `${fields.data}\n${value}` : value;
  }
}

/** Lines that end in LF, CRLF or CR, of a UTF-8 stream whose chunks may end anywhere. */
async function* lines(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      // A CR at the very end may be half of a CRLF: it waits for what comes next.
      const ends = done ? /\r\n|\n|\r/ : /\r\n|\n|\r(?!$)/;
      const found = rest.split(ends);
      rest = found.pop();
      yield* found;
      if (done) return;
    }
  } finally {
    reader.releaseLock();
  }
}

/** Node 18 has no CustomEvent. */
function event(type, detail) {
  if (typeof CustomEvent === 'function') return new CustomEvent(type, { detail });
  return Object.assign(new Event(type), { detail });
}

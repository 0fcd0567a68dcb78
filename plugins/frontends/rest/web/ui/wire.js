/** Requests for answers, and the events of both of the server's streams in one shape. */

import { server } from "./state.js";

const PATHS = { chat: "v1/chat/completions", plain: "completion", notebook: "completion", infill: "infill" };
const LIKELIEST = 8;

/** How a model without a chat template is talked to: a transcript with two names. */
export const PLAIN = { user: "User", bot: "Llama" };

/** Whether a conversation goes through the model's chat template. */
export const usesTemplate = (conv) => (conv.template?.plain === undefined ? server.value.props?.chat !== false : !conv.template.plain);

const DEFAULT_LIMIT = 512;

/** Tokens of an answer that nothing ends by itself: texts that are continued, and models without a chat template. */
export function defaultLimit(conv) {
  if (conv.kind !== "notebook" && usesTemplate(conv)) return null;
  return Math.min(DEFAULT_LIMIT, server.value.props?.limits?.max_predict ?? DEFAULT_LIMIT);
}

/** The path and body of the request for the next answer. `messages`: what the model is to see, oldest first. */
export function answerRequest(conv, messages, { probabilities = false, seed } = {}) {
  const kind = usesTemplate(conv) ? "chat" : "plain";
  const body = { ...common(conv, seed), stream: true, return_progress: true };
  if (kind === "chat") {
    const system = conv.system.trim() ? [{ role: "system", content: conv.system }] : [];
    body.messages = [...system, ...messages.map(({ role, text }) => ({ role, content: text }))];
    body.stream_options = { include_usage: true };
    if (probabilities) Object.assign(body, { logprobs: true, top_logprobs: LIKELIEST });
  } else {
    const names = { ...PLAIN, ...conv.template };
    body.prompt = transcript(conv.system, messages, names);
    body.stop = [...(body.stop ?? []), `\n${names.user}:`];
    asCompletion(body, probabilities);
  }
  return { kind, path: PATHS[kind], body };
}

/** The path and body of a run of the notebook: after the text, or, with a suffix, between the two. */
export function notebookRequest(conv, prefix, { suffix, probabilities = false, seed } = {}) {
  const kind = suffix === undefined ? "notebook" : "infill";
  const body = { ...common(conv, seed), stream: true, return_progress: true };
  if (kind === "infill") Object.assign(body, { input_prefix: prefix, input_suffix: suffix });
  else body.prompt = prefix;
  asCompletion(body, probabilities);
  return { kind, path: PATHS[kind], body };
}

function asCompletion(body, probabilities) {
  if (body.max_tokens !== undefined) body.n_predict = body.max_tokens;
  delete body.max_tokens;
  body.context_shift = true; // a text that goes on always drops its beginning
  if (probabilities) body.n_probs = LIKELIEST;
}

/** Only what the reader changed is sent, and a limit where nothing else ends the text: the server owns every default. */
function common(conv, seed) {
  const body = { ...known(conv.params) };
  const limit = defaultLimit(conv);
  if (limit !== null) body.max_tokens ??= limit;
  if (conv.chain) body.samplers = conv.chain;
  if (conv.adapters) body.lora = conv.adapters.map(({ name, scale }) => ({ name, scale }));
  if (conv.model) body.model = conv.model;
  if (conv.grammar?.on && conv.grammar.text.trim()) Object.assign(body, constraint(conv.grammar));
  if (seed !== undefined) body.seed = seed;
  if (typeof body.seed === "string") body.seed = Number(body.seed);
  return body;
}

/** The field of a request for what the answer has to follow. */
export function constraint({ kind, text }) {
  if (kind === "schema") return { json_schema: JSON.parse(text) };
  return { [kind === "gbnf" ? "grammar" : kind]: text };
}

/** Options of samplers that are not installed here are kept, but not sent. */
function known(params) {
  const { samplers } = server.value;
  if (!samplers) return params;
  const names = new Set(samplers.fields);
  return Object.fromEntries(Object.entries(params).filter(([name]) => names.has(name) || REQUEST_FIELDS.has(name)));
}

export const REQUEST_FIELDS = new Set(["max_tokens", "stop", "seed", "context_shift", "ignore_eos"]);

function transcript(system, messages, { user, bot }) {
  const lines = messages.map(({ role, text }) => `${role === "user" ? user : bot}: ${text}`);
  if (messages.at(-1)?.role === "user") lines.push(`${bot}:`);
  return [system.trim(), lines.join("\n")].filter(Boolean).join("\n\n");
}

/** One event of either stream as a list of `{type, ...}`. */
export function readEvent(kind, event) {
  if (event.error) return [{ type: "error", error: typeof event.error === "string" ? { message: event.error } : event.error }];
  const found = progress(event);
  return found.concat(kind === "chat" ? readChat(event) : readCompletion(event));
}

function progress({ queue, loading, prompt_progress: prompt }) {
  const found = [];
  if (queue) found.push({ type: "queue", ahead: queue.ahead });
  if (loading) found.push({ type: "loading", progress: loading.progress });
  if (prompt) found.push({ type: "prompt", ...prompt });
  return found;
}

function readChat({ choices = [], usage, timings, llamakit, model }) {
  const found = [];
  const [choice] = choices;
  const { content, reasoning_content: reasoning } = choice?.delta ?? {};
  if (reasoning) found.push({ type: "reasoning", text: reasoning });
  if (content) found.push({ type: "text", text: content });
  if (choice?.logprobs?.content?.length) found.push({ type: "probs", when: "before", items: choice.logprobs.content.map(fromLogprob) });
  if (choice?.finish_reason) found.push({ type: "final", reason: choice.finish_reason });
  if (usage || timings || llamakit) found.push({ type: "final", usage, timings, details: llamakit, model });
  return found;
}

function fromLogprob({ token, id, logprob, bytes, top_logprobs: top = [] }) {
  return { text: token, id, bytes, p: Math.exp(logprob),
    top: top.map((other) => ({ text: other.token, p: Math.exp(other.logprob) })) };
}

function readCompletion(event) {
  const found = [];
  if (event.content) found.push({ type: "text", text: event.content });
  if (!event.stop && event.completion_probabilities?.length) {
    found.push({ type: "probs", when: "after", items: event.completion_probabilities.map(fromProbs) });
  }
  if (event.stop) found.push(completionEnd(event));
  return found;
}

function fromProbs({ content, id, probs = [] }) {
  const top = probs.map(({ tok_str: text, prob }) => ({ text, p: prob }));
  return { text: content, id, p: top.find((other) => other.text === content)?.p ?? null, top };
}

function completionEnd(event) {
  const { tokens_evaluated: read = 0, tokens_predicted: written = 0, tokens_cached: cached = 0, model, timings, llamakit } = event;
  const seed = event.generation_settings?.seed;
  return {
    type: "final", model, timings,
    reason: event.stopped_limit ? "length" : "stop",
    usage: event.usage ?? { prompt_tokens: read, completion_tokens: written, prompt_tokens_details: { cached_tokens: timings?.cache_n ?? cached } },
    details: { seed, ...llamakit },
  };
}

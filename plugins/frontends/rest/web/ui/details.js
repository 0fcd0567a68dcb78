/** Where the time of an answer went, and what made it. */

import { openPopover } from "./dialog.js";
import { count, h, seconds } from "./dom.js";

export function showDetails(message, opener) {
  return openPopover(opener, "Details of the answer", message ? table(message) : h("p", { text: "No answer yet." }), { className: "details" });
}

function table({ timings = {}, usage = {}, details = {}, seed, adapters, model, params, probabilities }) {
  const rate = (n, ms) => (n && ms ? `, ${((n * 1000) / ms).toFixed(1)} tok/s` : "");
  const accepted = timings.draft_n ? `${timings.draft_n_accepted} of ${timings.draft_n} accepted (${Math.round((100 * timings.draft_n_accepted) / timings.draft_n)} %)` : "";
  const cached = usage.prompt_tokens_details?.cached_tokens ?? timings.cache_n;
  const rows = [
    ["Queue", timings.queue_ms === undefined ? "" : seconds(timings.queue_ms)],
    ["Prompt", timings.prompt_ms === undefined ? "" : `${count(timings.prompt_n ?? usage.prompt_tokens ?? 0)} tokens in ${seconds(timings.prompt_ms)}${rate(timings.prompt_n, timings.prompt_ms)}`],
    ["Cached tokens", cached ? count(cached) : ""],
    ["First token", timings.prompt_ms === undefined ? "" : seconds((timings.queue_ms ?? 0) + timings.prompt_ms)],
    ["Writing", timings.predicted_ms === undefined ? "" : `${count(timings.predicted_n)} tokens in ${seconds(timings.predicted_ms)}${rate(timings.predicted_n, timings.predicted_ms)}`],
    ["Speculation", accepted],
    ["Seed", seed ?? ""],
    ["Samplers", (details.samplers ?? []).join(" → ")],
    ["Adapters", (adapters ?? []).map(({ name, scale }) => `${name} ×${scale}`).join(", ")],
    ["Model", model ?? ""],
    ["Stopped by", details.stop_reason ?? ""],
    ["Ignored by the server", (details.ignored ?? []).join(", ")],
    ["Changed settings", params ? Object.entries(params).map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ") : ""],
  ].filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return h("dl", {}, ...rows.flatMap(([name, value]) => [h("dt", { text: name }), h("dd", { text: String(value) })]));
}

/** The page about the API: reads openapi.json and shows every operation, with its fields, an example and a way to try it. */

import { ApiError, apiKey, getJson } from "./api.js";
import { button, byId, copyText, h } from "./dom.js";
import { curlOf, exampleOf, fieldsOf, resolve } from "./docs_schema.js";
import { tryBox } from "./docs_try.js";

const METHODS = ["get", "post", "put", "patch", "delete"];
const base = new URL(".", location.href).href.replace(/\/$/, "");

async function start() {
  let root;
  try {
    root = await getJson("openapi.json");
  } catch (error) {
    const locked = error instanceof ApiError && error.status === 401;
    byId("key").hidden = !locked;
    byId("state").textContent = locked ? (apiKey.get() ? "This key is not known." : "") : "The server does not answer.";
    if (locked) byId("key-input").focus();
    return;
  }
  byId("key").hidden = true;
  byId("state").textContent = "";
  byId("version").textContent = root.info.version;
  byId("about").replaceChildren(...blocks(root.info.description ?? ""));
  draw(root);
  show();
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey.set(byId("key-input").value.trim(), false);
  start();
});

/** The operations in the order of their tags; each is built when it is opened. */
function draw(root) {
  const groups = new Map(root.tags.map(({ name, description }) => [name, { name, description, items: [] }]));
  for (const [path, methods] of Object.entries(root.paths)) {
    for (const method of METHODS.filter((name) => methods[name])) {
      const operation = methods[method];
      groups.get(operation.tags[0]).items.push({ ...operation, method: method.toUpperCase(), path, root });
    }
  }
  const filled = [...groups.values()].filter(({ items }) => items.length);
  byId("operations").replaceChildren(...filled.map(groupNode));
  byId("index").replaceChildren(...filled.map(indexNode));
}

function groupNode({ name, description, items }) {
  return h("section", { class: "group", "aria-labelledby": `tag-${name}` },
    h("h2", { id: `tag-${name}`, text: title(name) }), description ? h("p", { class: "muted" }, ...prose(description)) : null,
    items.map(operationNode));
}

const title = (name) => ({ llamacpp: "llama.cpp", openai: "OpenAI", anthropic: "Anthropic", ollama: "Ollama", adapters: "LoRA adapters" })[name] ?? name[0].toUpperCase() + name.slice(1);

function indexNode({ name, items }) {
  const links = items.map((item) => h("li", {}, h("a", { href: `#${item.operationId}`, data: { words: words(item) } }, chip(item.method), h("span", { text: item.path }))));
  return h("div", { class: "index-group" }, h("h2", { text: title(name) }), h("ul", {}, links));
}

/** What the filter looks through. */
function words({ path, method, summary, description = "", requestBody, root }) {
  const schema = resolve(requestBody?.content["application/json"]?.schema, root);
  return [path, method, summary, description, ...Object.keys(schema.properties ?? {})].join(" ").toLowerCase();
}

const chip = (method) => h("span", { class: "method", data: { method }, text: method === "DELETE" ? "DEL" : method });

function operationNode(item) {
  const node = h("details", { class: "operation", id: item.operationId, data: { words: words(item) } },
    h("summary", {}, chip(item.method), h("code", { class: "path", text: item.path }), h("span", { class: "summary", text: item.summary })));
  node.addEventListener("toggle", () => {
    if (node.open && node.childElementCount === 1) node.append(contents(item));
  });
  return node;
}

function contents(item) {
  const { root } = item;
  const media = item.requestBody?.content["application/json"];
  const body = media ? exampleOf(media, root) : undefined;
  const answers = item.responses["200"]?.content ?? {};
  const keyed = Boolean((item.security ?? root.security)?.length);
  return h("div", { class: "contents" },
    item.description ? h("p", {}, ...prose(item.description)) : null,
    exampleNode({ ...item, body, keyed }),
    parametersNode(item.parameters), bodyNode(media, root), answerNode(answers, root), errorsNode(item.responses, root));
}

function parametersNode(parameters) {
  if (!parameters?.length) return null;
  const fields = parameters.map(({ name, in: place, description = "", required }) => ({
    name, type: place === "path" ? "in the path" : "in the query", range: "", default: "", description, required, fields: [],
  }));
  return h("div", {}, h("h3", { text: "Parameters" }), table(fields));
}

function bodyNode(media, root) {
  if (!media) return null;
  const fields = fieldsOf(media.schema, root);
  const own = fields.filter(({ sampler }) => !sampler);
  const samplers = Map.groupBy(fields.filter(({ sampler }) => sampler), ({ sampler }) => sampler);
  const array = resolve(media.schema, root).type === "array";
  return h("div", {}, h("h3", { text: array ? "Body: an array of" : "Body" }), own.length ? table(own) : null,
    samplers.size ? h("details", { class: "samplers" },
      h("summary", { text: `Sampler options (${fields.length - own.length})` }), table([...samplers.values()].flat(), true)) : null);
}

function answerNode(answers, root) {
  const [type, media] = Object.entries(answers)[0] ?? [];
  const fields = media ? fieldsOf(media.schema, root) : [];
  const streams = Object.keys(answers).slice(1);
  const array = resolve(media?.schema, root).type === "array";
  const kind = type === "application/json" ? (array ? "an array" : "JSON") : type;
  return h("div", {}, h("h3", { text: "Answer" }),
    h("p", { class: "muted", text: streams.length ? `${kind}; with "stream": true ${streams.join(", ")}` : kind }),
    fields.length ? table(fields) : null);
}

function errorsNode(responses, root) {
  const found = Object.entries(responses).filter(([status]) => status !== "200");
  return h("details", { class: "errors" }, h("summary", { text: `Errors: ${found.map(([status]) => status).join(", ")}` }),
    h("dl", {}, found.flatMap(([status, response]) => [h("dt", { text: status }), h("dd", { text: resolve(response, root).description })])));
}

function exampleNode(item) {
  const command = curlOf(item, base);
  const copied = button("Copy", async () => {
    copied.lastChild.textContent = (await copyText(command)) ? "Copied" : "Not copied";
    setTimeout(() => (copied.lastChild.textContent = "Copy"), 2000);
  }, { className: "small" });
  return h("div", {}, h("div", { class: "row head" }, h("h3", { text: "Example" }), copied), h("pre", { class: "command", tabindex: "0", text: command }),
    h("details", { class: "try-it" }, h("summary", { text: "Try it" }), tryBox({ ...item, parameters: item.parameters ?? [] })));
}

/** A table of fields; those inside an object follow it, indented. */
function table(fields, withSampler = false) {
  const head = ["Field", "Type", "Default", "Meaning"];
  return h("div", { class: "table" }, h("table", {},
    h("thead", {}, h("tr", {}, head.map((text) => h("th", { scope: "col", text })))),
    h("tbody", {}, rows(fields, withSampler, ""))));
}

function rows(fields, withSampler, prefix) {
  return fields.flatMap((field) => [
    h("tr", {},
      h("th", { scope: "row" }, prefix ? h("span", { class: "muted", text: prefix }) : null, h("code", { text: field.name }), field.required ? h("span", { class: "required", text: "required" }) : null),
      h("td", {}, h("span", { text: field.type }), field.range ? h("span", { class: "range", text: field.range }) : null),
      h("td", {}, field.default ? h("code", { text: field.default }) : null),
      h("td", {}, ...prose(field.description), withSampler ? h("span", { class: "range", text: `sampler ${field.sampler}` }) : null)),
    ...rows(field.fields, withSampler, `${prefix}${field.name}.`),
  ]);
}

/** Text in which `code` is set as such. */
function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? h("code", { text: part }) : part));
}

/** Paragraphs, and lists of lines that begin with "- ". */
function blocks(text) {
  return text.split("\n\n").map((block) => {
    if (!block.startsWith("- ")) return h("p", {}, ...prose(block.replaceAll("\n", " ")));
    return h("ul", {}, block.split(/\n?^- /m).filter(Boolean).map((item) => h("li", {}, ...prose(item.replaceAll("\n", " ")))));
  });
}

/** Opens the operation that the address names. */
function show() {
  const node = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (node?.matches?.("details")) {
    node.open = true;
    node.scrollIntoView({ block: "start" });
  }
  for (const link of byId("index").querySelectorAll("a")) {
    if (link.hash === location.hash) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

byId("filter").addEventListener("input", ({ target }) => {
  const wanted = target.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({ dataset }) => wanted.every((word) => dataset.words.includes(word));
  for (const node of document.querySelectorAll(".operation")) node.hidden = !fits(node);
  for (const link of byId("index").querySelectorAll("a")) link.parentElement.hidden = !fits(link);
  for (const group of document.querySelectorAll(".group, .index-group")) group.hidden = !group.querySelector(".operation:not([hidden]), li:not([hidden])");
  byId("state").textContent = document.querySelector(".operation:not([hidden])") ? "" : "Nothing fits.";
});

addEventListener("hashchange", show);
start();

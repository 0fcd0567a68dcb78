/** From JSON Schema to controls: what kind each option is, and whether a value fits. No DOM here. */

const MOST_SLIDER_STEPS = 200;
const SHORT = 120;

/** What `GET /samplers` says, as groups of fields, and the flat names of all fields. */
export function readSamplers({ chain = [], samplers = [] }) {
  const order = new Map(chain.map((name, index) => [name, index]));
  const sorted = samplers.toSorted((a, b) => (order.get(a.name) ?? 1e6) - (order.get(b.name) ?? 1e6));
  const groups = new Map();
  for (const sampler of sorted) {
    for (const field of fieldsOf(sampler)) {
      if (field.kind === "grammar") continue; // what the answer has to follow has a box of its own
      const name = field.ui.group ?? groupOf(sampler);
      if (!groups.has(name)) groups.set(name, { name, sampler, foreign: isForeign(sampler), fields: [] });
      groups.get(name).fields.push(field);
    }
  }
  const list = [...groups.values()];
  for (const group of list) group.fields.sort((a, b) => (a.ui.order ?? weight(a)) - (b.ui.order ?? weight(b)));
  list.sort((a, b) => rank(a) - rank(b));
  return { chain, samplers: sorted, groups: list, fields: list.flatMap(({ fields }) => fields.map(({ name }) => name)) };
}

const COMMON = "Common";
const isForeign = ({ package: from }) => Boolean(from) && from !== "llamakit";
const weight = ({ key, kind }) => (key === "temperature" ? 0 : kind === "pairs" ? 90 : 50);
const rank = ({ name, foreign }) => (name === COMMON ? 0 : foreign ? 2 : 1);

function groupOf(sampler) {
  if (isForeign(sampler)) return sampler.title || words(sampler.name);
  return Object.keys(properties(sampler.schema)).length === 1 ? COMMON : sampler.title || words(sampler.name);
}

/** `top_k` as people say it. */
export function words(name) {
  const text = name.replaceAll(/[._]/g, " ").trim();
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function resolve(schema, definitions) {
  const name = schema?.$ref?.split("/").at(-1);
  return name ? { ...definitions[name], ...schema, $ref: undefined } : (schema ?? {});
}

function properties(schema = {}) {
  return resolve(schema, schema.$defs ?? {}).properties ?? {};
}

export function fieldsOf({ name: sampler, prefix = "", defaults = {}, schema = {} }) {
  return Object.entries(properties(schema)).map(([key, property]) => {
    const name = prefix + key;
    const field = readField(key, property, schema.$defs ?? {});
    return { ...field, name, sampler, default: defaults[name] ?? defaults[key] ?? field.default ?? null };
  });
}

/** One option: its kind of control, its bounds, what it is called. */
export function readField(key, property, definitions = {}) {
  let schema = resolve(property, definitions);
  const options = (schema.anyOf ?? schema.oneOf ?? []).map((one) => resolve(one, definitions));
  const optional = options.some(({ type }) => type === "null");
  const rest = options.filter(({ type }) => type !== "null");
  if (rest.length === 1) schema = { ...rest[0], ...schema, type: rest[0].type };
  const ui = schema["x-ui"] ?? {};
  const field = {
    key, name: key, ui, optional, schema, default: schema.default,
    title: schema.title && schema.title !== key ? schema.title : words(key), description: schema.description ?? "",
    min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum ?? schema.exclusiveMaximum,
    above: schema.exclusiveMinimum !== undefined, below: schema.exclusiveMaximum !== undefined, integer: schema.type === "integer",
  };
  return { ...field, ...kindOf(field, rest.length > 1) };
}

function kindOf(field, mixed) {
  const { schema, ui, key, min, max } = field;
  if (ui.widget === "grammar") return { kind: "grammar" };
  if (schema.enum) return { kind: schema.enum.length <= 4 ? "radio" : "select", choices: schema.enum };
  if (schema.const !== undefined) return { kind: "select", choices: [schema.const] };
  if (mixed) return { kind: "json" };
  const bounded = Number.isFinite(min) && Number.isFinite(max);
  switch (schema.type) {
    case "boolean": return { kind: "switch" };
    case "integer":
      if (key === "seed" || max > Number.MAX_SAFE_INTEGER) return { kind: "seed" };
      return bounded && max - min <= MOST_SLIDER_STEPS ? { kind: "slider", ...sliderOf(field) } : { kind: "number", step: ui.step ?? schema.multipleOf ?? 1 };
    case "number": return bounded ? { kind: "slider", ...sliderOf(field) } : { kind: "number", step: ui.step ?? "any" };
    case "string": return { kind: ui.widget === "text" || schema.maxLength > SHORT ? "text" : "line" };
    case "array": return { kind: arrayKind(schema) };
    default: return { kind: "json" };
  }
}

function arrayKind({ items, prefixItems }) {
  if (items?.type === "string") return "list";
  const pair = items?.type === "array" && (items.prefixItems?.length === 2 || items.maxItems === 2);
  return pair && !prefixItems ? "pairs" : "json";
}

/** A slider over the whole range, or, where that is far wider than its default, over the usual part of it. */
function sliderOf({ min, max, integer, schema, ui, default: usual }) {
  const unit = Math.max(Math.abs(usual ?? 0), 1);
  const wide = !integer && max - min > 20 * unit && ui.scale !== "log";
  const [low, high] = ui.slider ?? (wide ? [Math.max(min, -2 * unit), Math.min(max, 2 * unit)] : [min, max]);
  return { low, high, step: ui.step ?? schema.multipleOf ?? (integer ? 1 : niceStep((high - low) / 100)), log: ui.scale === "log" && low > 0 };
}

/** Rounded to 1, 2 or 5 times a power of ten. */
export function niceStep(value) {
  const power = 10 ** Math.floor(Math.log10(value) + 1e-9);
  const lead = value / power;
  const step = (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10) * power;
  return Number(step.toPrecision(1));
}

/** The range, the default and what turns it off, in words. */
export function rangeText({ min, max, above, below, default: usual, ui, kind, optional }) {
  const parts = [];
  const [low, high] = [shown(min), shown(max)];
  if (min !== undefined && max !== undefined) parts.push(`${above ? "above " : ""}${low} to ${below ? "below " : ""}${high}`);
  else if (min !== undefined) parts.push(above ? `above ${low}` : `${low} or more`);
  else if (max !== undefined) parts.push(`up to ${high}`);
  if (optional) parts.push("may be unset");
  if (usual !== undefined && usual !== null && kind !== "pairs") parts.push(`default ${shown(usual)}`);
  if (ui.off !== undefined) parts.push(`off at ${shown(ui.off)}`);
  if (ui.unit) parts.push(`in ${ui.unit}`);
  return parts.join(", ");
}

/** A value in short. */
export function shown(value) {
  if (value === null || value === undefined) return "unset";
  if (value === true || value === false) return value ? "on" : "off";
  if (Array.isArray(value) && !value.length) return "none";
  if (value === "") return "empty";
  if (typeof value === "number" && Math.abs(value) >= 10_000) return value.toLocaleString("en", { maximumSignificantDigits: 17 });
  return typeof value === "string" || typeof value === "number" ? String(value) : JSON.stringify(value);
}

/** Why a value does not fit, or "". */
export function misfit(field, value) {
  const { kind, min, max, above, below, integer, schema, optional } = field;
  if (value === null) return optional ? "" : "a value is needed";
  if (["slider", "number", "seed"].includes(kind)) {
    if (typeof value !== "number" || !Number.isFinite(value)) return "a number is needed";
    if ((integer || kind === "seed") && !Number.isInteger(value)) return "a whole number is needed";
    if (min !== undefined && (above ? value <= min : value < min)) return `it has to be ${above ? "above" : "at least"} ${min}`;
    if (max !== undefined && (below ? value >= max : value > max)) return `it can be ${below ? "below" : "at most"} ${max}`;
  }
  if (typeof value === "string" && value.length > (schema.maxLength ?? Infinity)) return `it can have ${schema.maxLength} characters`;
  if (Array.isArray(value) && value.length > (schema.maxItems ?? Infinity)) return `it can have ${schema.maxItems} entries`;
  return "";
}

export const same = (a, b) => a === b || JSON.stringify(a) === JSON.stringify(b);

const OPS = { "==": (a, b) => a === b, "!=": (a, b) => a !== b, ">": (a, b) => a > b, ">=": (a, b) => a >= b, "<": (a, b) => a < b, "<=": (a, b) => a <= b };

/** Why a field has no effect now, or "". `value(name)` is the value in force, `titleOf(name)` its title. */
export function inactive(field, { value, titleOf, chain, chooses = false }) {
  for (const { field: other, op = "==", value: limit } of field.ui.disabled_by ?? []) {
    if (OPS[op]?.(value(other), limit)) return `not used while ${titleOf(other)} is ${reason(op, limit)}`;
  }
  return chain && !chooses && !chain.includes(field.sampler) ? "not in the chain" : "";
}

function reason(op, limit) {
  if ((op === ">" || op === "!=") && (limit === 0 || limit === false)) return "on";
  if (op === "==" && typeof limit === "boolean") return limit ? "on" : "off";
  return `${{ "==": "", "!=": "not ", ">": "above ", ">=": "at least ", "<": "below ", "<=": "at most " }[op]}${shown(limit)}`;
}

/** JSON Schema in words: what type a field has, which values it takes, and the rows of a table of fields. No DOM here. */

/** Follows references; what stands beside a reference wins. */
export function resolve(schema, root) {
  if (!schema?.$ref) return schema ?? {};
  const { $ref, ...beside } = schema;
  const found = $ref.split("/").slice(1).reduce((place, name) => place?.[name], root);
  return { ...resolve(found, root), ...beside };
}

/** A schema and, where `null` is the only other choice, whether it may be left unset. */
export function withoutNull(schema, root) {
  const full = resolve(schema, root);
  const choices = full.anyOf?.filter(({ type }) => type !== "null");
  if (!choices || choices.length === full.anyOf.length) return { schema: full, optional: false };
  const { anyOf, ...rest } = full;
  return { schema: choices.length === 1 ? { ...rest, ...resolve(choices[0], root) } : { ...rest, anyOf: choices }, optional: true };
}

/** The type in words: "text", "whole number", "array of text", "text or array of text". */
export function typeText(given, root, depth = 0) {
  const schema = resolve(given, root);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return [...new Set(schema.anyOf.map((one) => typeText(one, root, depth + 1)))].join(" or ");
  if (Array.isArray(schema.type)) return schema.type.map((type) => NAMES[type] ?? type).join(" or ");
  if (schema.type === "array") return arrayText(schema, root, depth);
  return NAMES[schema.type] ?? (schema.properties ? "object" : "anything");
}

const NAMES = { string: "text", integer: "whole number", number: "number", boolean: "true or false", object: "object", null: "null" };

function arrayText({ items, prefixItems }, root, depth) {
  if (prefixItems && depth < 3) return `[${prefixItems.map((item) => typeText(item, root, depth + 1)).join(", ")}]`;
  if (!items || !Object.keys(items).length || depth > 3) return "array";
  const inner = typeText(items, root, depth + 1);
  return inner.includes(" or ") ? `array of (${inner})` : `array of ${inner}`;
}

const number = (value) => (Math.abs(value) >= 10_000 ? value.toLocaleString("en") : String(value));

/** The values that are possible, in words; "" where the type says it all. */
export function rangeText({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, minLength, maxLength, minItems, maxItems, anyOf }) {
  const low = minimum ?? exclusiveMinimum;
  const high = maximum ?? exclusiveMaximum;
  const parts = [];
  if (low !== undefined && high !== undefined && Math.abs(high) < 2 ** 31 - 1) parts.push(`${exclusiveMinimum === undefined ? "" : "above "}${number(low)} to ${exclusiveMaximum === undefined ? "" : "below "}${number(high)}`);
  else if (low !== undefined) parts.push(exclusiveMinimum === undefined ? `${number(low)} or more` : `above ${number(low)}`);
  else if (high !== undefined) parts.push(`up to ${number(high)}`);
  if (minLength) parts.push(`${minLength} or more characters`);
  if (maxLength) parts.push(`up to ${number(maxLength)} characters`);
  if (minItems && minItems !== maxItems) parts.push(`${minItems} or more`);
  if (maxItems && minItems !== maxItems) parts.push(`up to ${number(maxItems)}`);
  if (!parts.length && anyOf) return anyOf.map(rangeText).filter(Boolean)[0] ?? "";
  return parts.join(", ");
}

/** The fields of an object: {name, type, range, default, description, required, sampler, fields of an object in it}. */
export function fieldsOf(given, root, depth = 0) {
  const choices = resolve(given, root).anyOf ?? [given];
  const outer = resolve(choices.find((one) => resolve(one, root).properties) ?? choices[0], root);
  const object = outer.type === "array" ? resolve(outer.items, root) : outer;
  const needed = new Set(object.required ?? []);
  const named = Object.entries(object.properties ?? {}).sort(([a], [b]) => needed.has(b) - needed.has(a)); // those first
  return named.map(([name, property]) => {
    const { schema, optional } = withoutNull(property, root);
    const inner = schema.properties ? schema : schema.type === "array" ? resolve(schema.items, root) : null;
    return {
      name, required: needed.has(name), optional, sampler: schema["x-sampler"] ?? "",
      type: typeText(schema, root), range: rangeText(schema), description: schema.description ?? "",
      default: schema.default === null || schema.default === undefined ? "" : JSON.stringify(schema.default),
      fields: inner?.properties && depth < 2 ? fieldsOf(inner, root, depth + 1) : [],
    };
  });
}

/** A body to start from where the description gives no example: its required fields. */
export function exampleOf(media, root) {
  if (media?.example !== undefined) return media.example;
  const schema = resolve(media?.schema, root);
  if (schema.type === "array") return [];
  const value = {};
  for (const name of schema.required ?? []) value[name] = sample(resolve(schema.properties[name], root));
  return value;
}

function sample({ default: usual, enum: choices, anyOf, type }) {
  if (usual !== undefined) return usual;
  if (choices) return choices[0];
  if (anyOf) return sample(anyOf[0]);
  return { string: "", integer: 1, number: 1, boolean: false, array: [] }[type] ?? {};
}

/** The command that sends it. */
export function curlOf({ method, path, body, keyed }, base) {
  const lines = [`curl ${method === "GET" ? "" : `-X ${method} `}${base}${path}`];
  if (keyed) lines.push(`-H "Authorization: Bearer $LLAMAKIT_KEY"`);
  if (body !== undefined) lines.push(`-H "Content-Type: application/json"`, `-d '${JSON.stringify(body).replaceAll("'", String.raw`'\''`)}'`);
  return lines.join(" \\\n  ");
}

// JSON Schema to GBNF, for page authors:
//
//     import { SchemaConverter } from '/json-schema-to-grammar.mjs'
//     const converter = new SchemaConverter(['name', 'age'])
//     converter.visit(schema, '')
//     const grammar = converter.formatGrammar()
//
// What the grammar lets through always satisfies the schema. It is narrower than the schema in these ways, so that
// a model keeps to the point: properties come in one order (that of the constructor, then by name); without
// `required` all of them are written; beside `properties` no others are; without `minItems` all of `prefixItems`
// are; `oneOf` is read as `anyOf`; between tokens there is one space at most. Whatever cannot be expressed
// throws an error that names the place by its JSON pointer.

const SPACE = '" "?';
const PRIMITIVES = {
  space: [SPACE, []],
  boolean: ['("true" | "false") space', ['space']],
  null: ['"null" space', ['space']],
  integer: ['"-"? ("0" | [1-9] [0-9]*) space', ['space']],
  number: ['"-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? space', ['space']],
  // One character of a string. No \u of half a surrogate pair: it is not text.
  char: [
    String.raw`[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9a-cA-CefEF] hex hex hex | [dD] [0-7] hex hex))`,
    ['hex'],
  ],
  hex: ['[0-9a-fA-F]', []],
  string: [String.raw`"\"" char* "\"" space`, ['char', 'space']],
  value: [
    'object | array | string | number | boolean | null',
    ['object', 'array', 'string', 'number', 'boolean', 'null'],
  ],
  object: ['"{" space (member ("," space member)*)? "}" space', ['member', 'space']],
  member: ['string ":" space value', ['string', 'value', 'space']],
  array: ['"[" space (value ("," space value)*)? "]" space', ['value', 'space']],
};
const TYPES = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'];
// Keywords that only describe.
const NOTES = new Set(
  ['$schema', '$id', '$anchor', '$comment', '$vocabulary', '$defs', 'definitions', 'title', 'description', 'default',
    'examples', 'deprecated', 'readOnly', 'writeOnly'],
);
const BY_TYPE = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'prefixItems', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
};
const GENERAL = ['type', 'const', 'enum', '$ref', 'anyOf', 'oneOf', 'allOf'];
const KNOWN = new Set([...GENERAL, ...Object.values(BY_TYPE).flat()]);

export class SchemaConverter {
  #order;
  #rules = new Map();
  #root;
  #refs = new Map(); // pointer -> name of its rule
  #pending = new Set(); // pointers entered since the last character: meeting one again would never end

  /** `propOrder`: names of properties in the order wanted, or an object of name to place. */
  constructor(propOrder = {}) {
    this.#order = Array.isArray(propOrder) ? Object.fromEntries(propOrder.map((name, i) => [name, i])) : propOrder;
  }

  /** Adds the rules of a schema, the first one called `name` ("root" where it is empty); returns that rule's name. */
  visit(schema, name) {
    this.#root = schema;
    this.#refs.clear();
    this.#pending.clear();
    return this.#rule(schema, name || 'root', '#');
  }

  /** The grammar's text: a rule a line. */
  formatGrammar() {
    return [...this.#rules].map(([name, body]) => `${name} ::= ${body}\n`).join('');
  }

  /** A rule of its own for a schema, unless a rule that exists already says the same. */
  #rule(schema, wanted, at) {
    const name = this.#reserve(wanted);
    const body = this.#expression(schema, name, at);
    if (this.#rules.has(body) && name !== 'root') {
      this.#rules.delete(name);
      return body;
    }
    this.#rules.set(name, body);
    return name;
  }

  /** A free name like the one that is wanted; taken from now on, so that the rules stand in reading order. */
  #reserve(wanted) {
    const base = wanted.replace(/[^a-zA-Z0-9]+/g, '-').replace(/^-+|-+$/g, '') || 'rule';
    let name = base;
    for (let i = 2; this.#rules.has(name) || name in PRIMITIVES; i++) name = `${base}-${i}`;
    this.#rules.set(name, '');
    return name;
  }

  #primitive(name) {
    if (!this.#rules.has(name)) {
      this.#rules.set(name, PRIMITIVES[name][0]);
      PRIMITIVES[name][1].forEach((needed) => this.#primitive(needed));
    }
    return name;
  }

  /** What a schema allows, as the right-hand side of a rule. */
  #expression(schema, name, at) {
    if (schema === true) return this.#primitive('value');
    if (schema === false) throw problem(at, 'allows nothing');
    if (!isObject(schema)) throw problem(at, `is ${JSON.stringify(schema)}, not a schema`);
    for (const key of Object.keys(schema)) {
      if (!KNOWN.has(key) && !NOTES.has(key)) throw problem(pointer(at, key), 'is not supported');
    }
    if ('$ref' in schema && !hasOther(schema, ['$ref'])) return this.#reference(schema.$ref, pointer(at, '$ref'));
    if ('$ref' in schema || 'allOf' in schema) return this.#expression(this.#flat(schema, at), name, at);
    if ('anyOf' in schema || 'oneOf' in schema) return this.#alternatives(schema, name, at);
    if ('const' in schema || 'enum' in schema) return this.#literals(schema, at);
    return this.#typed(schema, name, at);
  }

  // -- by keyword ----------------------------------------------------------------------------------------------

  #reference(ref, at) {
    if (this.#pending.has(ref)) throw problem(at, `${ref} refers to itself before anything else`);
    if (!this.#refs.has(ref)) {
      const target = this.#resolve(ref, at);
      const name = this.#reserve(ref === '#' ? 'document' : ref.split('/').pop());
      this.#refs.set(ref, name);
      this.#pending.add(ref);
      this.#rules.set(name, this.#expression(target, name, ref));
      this.#pending.delete(ref);
    }
    return this.#refs.get(ref);
  }

  #resolve(ref, at) {
    if (typeof ref !== 'string' || !/^#(\/|$)/.test(ref)) throw problem(at, 'is not a reference into this document');
    if (/%(?![0-9a-fA-F]{2})/.test(ref)) throw problem(at, `${ref} has a % that encodes nothing`);
    let target = this.#root;
    for (const part of decodeURIComponent(ref).split('/').slice(1)) {
      const key = part.replace(/~1/g, '/').replace(/~0/g, '~');
      if (target === null || typeof target !== 'object' || !Object.hasOwn(target, key)) {
        throw problem(at, `${ref} is not there`);
      }
      target = target[key];
    }
    return target;
  }

  /** A schema without `$ref` and `allOf`: both merged into what stands beside them. */
  #flat(schema, at, seen = []) {
    if (schema === true) return {};
    if (!isObject(schema)) throw problem(at, schema === false ? 'allows nothing' : 'is not a schema');
    const { $ref, allOf = [], ...rest } = schema;
    if (!Array.isArray(allOf)) throw problem(pointer(at, 'allOf'), 'is not an array');
    const parts = allOf.map((part, i) => this.#flat(part, pointer(at, 'allOf', i), seen));
    if ($ref !== undefined) {
      if (seen.includes($ref)) throw problem(pointer(at, '$ref'), `${$ref} refers to itself before anything else`);
      parts.push(this.#flat(this.#resolve($ref, pointer(at, '$ref')), $ref, [...seen, $ref]));
    }
    return [rest, ...parts].reduce((merged, part) => merge(merged, part, at));
  }

  #alternatives(schema, name, at) {
    const { anyOf, oneOf, ...rest } = schema;
    const key = anyOf === undefined ? 'oneOf' : 'anyOf';
    const [options, others] = anyOf === undefined ? [oneOf, undefined] : [anyOf, oneOf];
    if (!Array.isArray(options) || !options.length) throw problem(pointer(at, key), 'is not an array of schemas');
    const beside = others === undefined ? rest : { ...rest, oneOf: others };
    const alone = !hasOther(beside, []);
    return options
      .map((option, i) => {
        const whole = alone ? option : this.#flat({ ...beside, allOf: [option] }, pointer(at, key, i));
        return this.#rule(whole, `${name}-${i}`, pointer(at, key, i));
      })
      .join(' | ');
  }

  #literals(schema, at) {
    const extra = Object.keys(schema).find((key) => !['const', 'enum', 'type'].includes(key) && !NOTES.has(key));
    if (extra) throw problem(pointer(at, extra), 'is not supported beside const or enum');
    let values = 'enum' in schema ? schema.enum : [schema.const];
    if (!Array.isArray(values)) throw problem(pointer(at, 'enum'), 'is not an array');
    if ('enum' in schema && 'const' in schema) values = values.filter((value) => same(value, schema.const));
    if ('type' in schema) values = values.filter((value) => types(schema, at).some((type) => isType(value, type)));
    if (!values.length) throw problem(at, 'allows nothing');
    const literals = values.map((value) => literal(JSON.stringify(value)));
    this.#primitive('space');
    return literals.length > 1 ? `(${literals.join(' | ')}) space` : `${literals[0]} space`;
  }

  #typed(schema, name, at) {
    const allowed = types(schema, at);
    if (!allowed.length) return this.#primitive('value');
    if (allowed.length > 1) {
      return allowed.map((type) => this.#rule({ ...schema, type }, `${name}-${type}`, at)).join(' | ');
    }
    const outside = this.#pending;
    this.#pending = new Set();
    const [type] = allowed;
    const narrowed = BY_TYPE[type]?.some((key) => key in schema);
    const body = narrowed ? this[`_${type}`](schema, name, at) : this.#primitive(type);
    this.#pending = outside;
    return body;
  }

  // -- by type -------------------------------------------------------------------------------------------------

  _string(schema, _name, at) {
    const [min, max] = bounds(schema, 'minLength', 'maxLength', at);
    if (max > 0) this.#primitive('char');
    this.#primitive('space');
    return joined(String.raw`"\""`, times('char', min, max), String.raw`"\"" space`);
  }

  _array(schema, name, at) {
    const { prefixItems: prefix = [] } = schema;
    if (!Array.isArray(prefix)) throw problem(pointer(at, 'prefixItems'), 'is not an array');
    if (Array.isArray(schema.items)) throw problem(pointer(at, 'items'), 'is an array: use prefixItems');
    const open = schema.items !== undefined ? schema.items !== false : !prefix.length;
    let [min, max] = bounds(schema, 'minItems', 'maxItems', at);
    if (schema.minItems === undefined) min = Math.min(prefix.length, max);
    if (!open) max = Math.min(max, prefix.length);
    if (min > max) throw problem(at, 'allows nothing: fewer items than minItems asks for');
    this.#primitive('space');
    const head = (part, i) => this.#rule(part, `${name}-${i}`, pointer(at, 'prefixItems', i));
    const heads = prefix.slice(0, max).map(head);
    let item = null;
    if (max > heads.length) item = this.#rule(schema.items ?? true, `${name}-item`, pointer(at, 'items'));
    return joined('"[" space', listed(heads, item, min, max), '"]" space');
  }

  _object(schema, name, at) {
    const { properties = {}, additionalProperties: others = true } = schema;
    const required = schema.required ?? Object.keys(properties);
    if (!isObject(properties)) throw problem(pointer(at, 'properties'), 'is not an object');
    if (!Array.isArray(required)) throw problem(pointer(at, 'required'), 'is not an array');
    const unlisted = required.filter((key) => !Object.hasOwn(properties, key));
    if (others === false && unlisted.length) {
      throw problem(at, `allows nothing: ${unlisted[0]} is required and not among its properties`);
    }
    this.#primitive('space');
    const keys = this.#ordered([...Object.keys(properties), ...unlisted]);
    if (!keys.length) return others === false ? '"{" space "}" space' : this.#map(others, name, at);
    const members = keys.map((key) => {
      const own = Object.hasOwn(properties, key);
      const where = own ? pointer(at, 'properties', key) : pointer(at, 'additionalProperties');
      const value = this.#rule(own ? properties[key] : others, name === 'root' ? key : `${name}-${key}`, where);
      return { text: `${literal(JSON.stringify(key))} space ":" space ${value}`, required: required.includes(key) };
    });
    return joined('"{" space', this.#members(members, name), '"}" space');
  }

  /** An object of any names, its values of one schema. */
  #map(schema, name, at) {
    const value = this.#rule(schema, `${name}-value`, pointer(at, 'additionalProperties'));
    const member = `${this.#primitive('string')} ":" space ${value}`;
    return joined('"{" space', listed([], member, 0, Infinity), '"}" space');
  }

  #ordered(keys) {
    const place = (key) => (Object.hasOwn(this.#order, key) ? this.#order[key] : Infinity);
    const byName = (a, b) => (a < b ? -1 : Number(a > b));
    return keys.sort((a, b) => (place(a) === place(b) ? byName(a, b) : place(a) - place(b)));
  }

  /** Members with their commas; the first one written may be any up to the first required one. */
  #members(members, name) {
    const after = (list) => list.map(({ text, required }) => (required ? `"," space ${text}` : `("," space ${text})?`));
    const firstRequired = members.findIndex((member) => member.required);
    if (firstRequired === 0) return [members[0].text, ...after(members.slice(1))].join(' ');
    // tail[i]: what may follow once something stands before member i. Shared, so that the grammar stays linear.
    const tails = [];
    for (let i = members.length - 1; i > 0; i--) {
      const body = joined(...after([members[i]]), tails[i + 1]);
      tails[i] = this.#reserve(`${name}-from-${i}`);
      this.#rules.set(tails[i], body);
    }
    const starts = firstRequired < 0 ? members : members.slice(0, firstRequired + 1);
    const choices = starts.map(({ text }, i) => joined(text, tails[i + 1]));
    return firstRequired < 0 ? `(${choices.join(' | ')})?` : `(${choices.join(' | ')})`;
  }
}

// -- pieces of grammar -----------------------------------------------------------------------------------------

function literal(text) {
  const escapes = { '"': '\\"', '\\': '\\\\', '\n': '\\n', '\r': '\\r', '\t': '\\t' };
  const hex = (char) => `\\x${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')}`;
  return `"${text.replace(/["\\\n\r\t]/g, (char) => escapes[char]).replace(/[\x00-\x1f\x7f]/g, hex)}"`;
}

/** `item` from `min` to `max` times. Counted repetition is written only where the schema counts. */
function times(item, min, max) {
  if (max === 0) return '';
  if (min === 0 && max === Infinity) return `${item}*`;
  if (min === 1 && max === Infinity) return `${item}+`;
  if (min === 0 && max === 1) return `${item}?`;
  if (min === 1 && max === 1) return item;
  if (min === max) return `${item}{${min}}`;
  return max === Infinity ? `${item}{${min},}` : `${item}{${min},${max}}`;
}

/** `heads` in order, then `item` again and again, with commas: `min` to `max` in all. */
function listed(heads, item, min, max) {
  const n = heads.length;
  let text = '';
  if (item !== null) {
    if (n) text = times(`("," space ${item})`, Math.max(0, min - n), max - n);
    else text = joined(item, times(`("," space ${item})`, Math.max(0, min - 1), max - 1));
    if (!n && min === 0) text = `(${text})?`;
  }
  for (let i = n - 1; i >= 0; i--) {
    text = joined(i && '"," space', heads[i], text);
    if (i >= min) text = `(${text})?`;
  }
  return text;
}

const joined = (...parts) => parts.filter(Boolean).join(' ');

// -- pieces of schema ------------------------------------------------------------------------------------------

const isObject = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);
const hasOther = (schema, keys) => Object.keys(schema).some((key) => !keys.includes(key) && !NOTES.has(key));
const problem = (at, text) => new Error(`${at}: ${text}`);
const pointer = (at, ...parts) =>
  [at, ...parts.map((part) => String(part).replace(/~/g, '~0').replace(/\//g, '~1'))].join('/');

function same(a, b) {
  if (a === null || b === null || typeof a !== 'object' || typeof b !== 'object') return a === b;
  const keys = Object.keys(a);
  if (Array.isArray(a) !== Array.isArray(b) || keys.length !== Object.keys(b).length) return false;
  return keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

function isType(value, type) {
  if (type === 'integer') return Number.isInteger(value);
  if (type === 'array') return Array.isArray(value);
  if (type === 'object') return isObject(value);
  return type === 'null' ? value === null : typeof value === type;
}

/** The types that a schema allows: as it says, else those that its keywords are about; none: any. */
function types(schema, at) {
  const said = schema.type;
  if (said === undefined) return Object.keys(BY_TYPE).filter((type) => BY_TYPE[type].some((key) => key in schema));
  const list = Array.isArray(said) ? said : [said];
  if (!list.length || !list.every((type) => TYPES.includes(type))) {
    throw problem(pointer(at, 'type'), `${JSON.stringify(said)} is not a type of JSON`);
  }
  return list.filter((type, i) => list.indexOf(type) === i && !(type === 'integer' && list.includes('number')));
}

function bounds(schema, low, high, at) {
  const read = (key, otherwise) => {
    const value = schema[key] ?? otherwise;
    if (value === otherwise || (Number.isSafeInteger(value) && value >= 0)) return value;
    throw problem(pointer(at, key), `${JSON.stringify(value)} is not a count`);
  };
  const [min, max] = [read(low, 0), read(high, Infinity)];
  if (min > max) throw problem(at, `allows nothing: ${low} is above ${high}`);
  return [min, max];
}

/** One schema for what both allow. */
function merge(a, b, at) {
  const merged = { ...a };
  for (const [key, value] of Object.entries(b)) {
    if (NOTES.has(key)) continue;
    if (!(key in merged) || same(merged[key], value)) merged[key] = value;
    else if (key in MERGE) merged[key] = MERGE[key](merged[key], value, at);
    else throw problem(pointer(at, key), 'differs between schemas that have to hold together');
  }
  return closed(merged, a, b, at);
}

const both = (x, y) => ({ allOf: [x, y] });
const product = (x, y) => x.flatMap((one) => y.map((other) => both(one, other)));
const MERGE = {
  type: (x, y, at) => {
    const [one, other] = [x, y].map((type) => types({ type }, at));
    const fits = (type) => other.includes(type) || (type === 'integer' && other.includes('number'));
    const shared = [...one.filter(fits), ...(one.includes('number') && other.includes('integer') ? ['integer'] : [])];
    if (!shared.length) throw problem(pointer(at, 'type'), 'allows nothing: no type is in all of them');
    return shared;
  },
  properties: (x, y) => {
    const shared = Object.keys(x).filter((key) => Object.hasOwn(y, key));
    return { ...x, ...y, ...Object.fromEntries(shared.map((key) => [key, both(x[key], y[key])])) };
  },
  required: (x, y) => [...new Set([...x, ...y])],
  additionalProperties: (x, y) => (x === false || y === false ? false : both(x, y)),
  items: (x, y) => (x === false || y === false ? false : both(x, y)),
  minItems: (x, y) => Math.max(x, y),
  maxItems: (x, y) => Math.min(x, y),
  minLength: (x, y) => Math.max(x, y),
  maxLength: (x, y) => Math.min(x, y),
  enum: (x, y) => x.filter((value) => y.some((other) => same(value, other))),
  anyOf: product,
  oneOf: product,
};
/** Without the properties that one of two merged schemas has ruled out with `additionalProperties`: false. */
function closed(merged, a, b, at) {
  if (!merged.properties) return merged;
  const properties = { ...merged.properties };
  for (const [one, other] of [[a, b], [b, a]]) {
    const { additionalProperties: rule = true } = one;
    for (const key of Object.keys(other.properties ?? {})) {
      if (rule === true || Object.hasOwn(one.properties ?? {}, key)) continue;
      if (rule === false) delete properties[key];
      else properties[key] = both(properties[key], rule);
      if (rule === false && merged.required?.includes(key)) {
        throw problem(at, `allows nothing: ${key} is required by one schema and ruled out by another`);
      }
    }
  }
  return { ...merged, properties };
}

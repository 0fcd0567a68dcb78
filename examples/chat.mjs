// A conversation in the terminal.   node examples/chat.mjs [options]
// Needs Node 18 or newer and a running server: llamakit serve -m model.gguf

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

const HELP = `node chat.mjs [options]
  --grammar FILE                            answers follow this GBNF grammar
  --grammar-json-schema FILE                answers follow this JSON Schema
  --grammar-json-schema-prop-order a,b      order of its properties
API_URL names the server (http://127.0.0.1:8080), N_PREDICT the longest answer in tokens (256).`;

const url = process.env.API_URL || 'http://127.0.0.1:8080';
const instruction = 'A conversation between a curious person and a helpful assistant who answers in a few kind words.';
const turns = [
  { person: 'Hello, assistant.', assistant: 'Hello. What would you like to know?' },
  { person: 'Which is the largest planet?', assistant: 'Jupiter is the largest planet of our solar system.' },
];

async function main() {
  const options = { help: { type: 'boolean', short: 'h' } };
  const names = ['grammar', 'grammar-json-schema', 'grammar-json-schema-prop-order'];
  for (const name of names) options[name] = { type: 'string' };
  const { values } = parseArgs({ options });
  if (values.help) return console.log(HELP);
  const grammar = await readGrammar(values);
  const n_keep = (await post('/tokenize', { content: instruction })).tokens.length + 1; // and the BOS before it

  const lines = createInterface({ input: process.stdin, output: process.stdout, prompt: '> ' });
  lines.prompt();
  for await (const line of lines) {
    if (line.trim()) await answer(line.trim(), { n_keep, grammar });
    lines.prompt();
  }
  process.stdout.write('\n');
}

async function readGrammar(values) {
  if (values.grammar) return readFileSync(values.grammar, 'utf8');
  const file = values['grammar-json-schema'];
  if (!file) return undefined;
  // Beside a running server the same module is at /json-schema-to-grammar.mjs.
  const { SchemaConverter } = await import('../plugins/frontends/rest/web/json-schema-to-grammar.mjs');
  const converter = new SchemaConverter(values['grammar-json-schema-prop-order']?.split(',') ?? []);
  converter.visit(JSON.parse(readFileSync(file, 'utf8')), '');
  return converter.formatGrammar();
}

function prompt(question) {
  const history = turns.map(({ person, assistant }) => `### Person: ${person}\n### Assistant: ${assistant}`);
  return [instruction, ...history, `### Person: ${question}\n### Assistant:`].join('\n');
}

async function answer(question, settings) {
  const response = await send('/completion', {
    ...settings,
    prompt: prompt(question),
    n_predict: Number(process.env.N_PREDICT || 256),
    temperature: 0.2,
    top_k: 40,
    top_p: 0.9,
    stop: ['\n### Person:'],
    stream: true,
  });
  let text = '';
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message ?? event.error);
    text += event.content;
    process.stdout.write(event.content);
    // The oldest turn makes room where the context was too short for all of them.
    if (event.stop && event.truncated) turns.shift();
  }
  process.stdout.write('\n');
  turns.push({ person: question, assistant: text.trim() });
}

/** The JSON of the events of a stream, wherever its chunks are cut. */
async function* events(body) {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of body) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) yield JSON.parse(line.slice(6));
  }
}

async function send(path, body) {
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(url + path, { method: 'POST', headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(`${path}: ${response.status}: ${await response.text()}`);
  return response;
}

const post = async (path, body) => (await send(path, body)).json();

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});

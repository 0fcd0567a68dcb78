// The clients of OpenAI, Anthropic and Ollama for node: prints what they got as JSON. Arguments: URL, key.
import Anthropic from "@anthropic-ai/sdk";
import { Ollama } from "ollama";
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const messages = [{ role: "user", content: "Tell me a story." }];
const found = {};

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const chat = { model: "stories", messages, max_tokens: 10, temperature: 0 };
found.openai = (await openai.chat.completions.create(chat)).choices[0].message.content;
found.openai_stream = "";
for await (const chunk of await openai.chat.completions.create({ ...chat, stream: true }))
  found.openai_stream += chunk.choices[0]?.delta?.content ?? "";
const response = await openai.responses.create({ model: "stories", input: "Hello", max_output_tokens: 16 });
found.response = response.output_text;
found.embedding = (await openai.embeddings.create({ model: "stories", input: "a cat" })).data[0].embedding.length;
try {
  await openai.chat.completions.create({ ...chat, temperature: -1 });
} catch (error) {
  found.openai_error = [error.status, error.param];
}

const anthropic = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const message = { model: "stories", messages, max_tokens: 10, temperature: 0 };
found.anthropic = (await anthropic.messages.create(message)).content[0].text;
found.anthropic_stream = "";
for await (const event of anthropic.messages.stream(message))
  if (event.type === "content_block_delta") found.anthropic_stream += event.delta.text;

const ollama = new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });
const options = { num_predict: 10, temperature: 0 };
found.ollama = (await ollama.chat({ model: "stories", messages, options })).message.content;
found.ollama_stream = "";
for await (const part of await ollama.chat({ model: "stories", messages, options, stream: true }))
  found.ollama_stream += part.message.content;
found.ollama_models = (await ollama.list()).models.length;

console.log(JSON.stringify(found));

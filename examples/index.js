// The shortest client: one request, one answer.   node examples/index.js "Once upon a time"
// Needs Node 18 or newer and a running server: llamakit serve -m model.gguf

const url = process.env.API_URL || 'http://127.0.0.1:8080';
const prompt = process.argv[2] || 'Once upon a time';

async function main() {
  const response = await fetch(`${url}/completion`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ prompt, n_predict: Number(process.env.N_PREDICT || 64), seed: 1 }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const { content } = await response.json();
  console.log(content);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});

"""The `openai` package against LlamaKit's server.

pip install openai
llamakit serve -m model.gguf
python examples/openai_client.py "Tell me a story"
"""

from __future__ import annotations

import os
import sys

from openai import OpenAI


def main() -> None:
    """Stream one answer, then say what it cost."""
    url = os.environ.get("API_URL", "http://127.0.0.1:8080")
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("API_KEY", "none"))
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": sys.argv[1] if len(sys.argv) > 1 else "Tell me a story."}],
        max_tokens=int(os.environ.get("N_PREDICT", "64")),
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n{chunk.usage.prompt_tokens} + {chunk.usage.completion_tokens} tokens, {model}", file=sys.stderr)


if __name__ == "__main__":
    main()

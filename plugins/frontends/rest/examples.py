"""Words for the description of the API: what each group of routes is for, and bodies that work with any model."""

from __future__ import annotations

from typing import Any

TAGS = {
    "llamacpp": "Completions, tokens and embeddings, as llama.cpp's server has had them since 2023.",
    "openai": "OpenAI's API: models, completions, chat, embeddings, responses.",
    "anthropic": "Anthropic's API: messages.",
    "ollama": "Ollama's API.",
    "operations": "What the server is and does.",
    "models": "Which models are in memory.",
    "adapters": "LoRA adapters: requests choose them by `lora`.",
    "docs": "This description.",
}

STORY = "Once upon a time"
CHAT = [{"role": "user", "content": "Tell me a story."}]
COMPLETION = {"prompt": STORY, "n_predict": 16, "temperature": 0.8, "seed": 1}
OPENAI = {"model": "default", "prompt": STORY, "max_tokens": 16}
OPENAI_CHAT = {"model": "default", "messages": CHAT, "max_tokens": 16}
OPENAI_EMBEDDING = {"model": "default", "input": ["Lily", "a ball"]}
RESPONSE = {"model": "default", "input": "Tell me a story.", "max_output_tokens": 16}
MESSAGES = {"model": "default", "max_tokens": 16, "messages": CHAT}

EXAMPLES: dict[str, Any] = {
    "POST /completion": COMPLETION,
    "POST /completions": OPENAI,
    "POST /infill": {"input_prefix": "def add(a, b):\n    return ", "input_suffix": "\n", "n_predict": 16},
    "POST /tokenize": {"content": STORY, "with_pieces": True},
    "POST /detokenize": {"tokens": [1, 403, 407, 261]},
    "POST /embedding": {"content": STORY},
    "POST /embeddings": {"content": STORY},
    "POST /apply-template": {"messages": CHAT},
    "POST /lora-adapters/load": {"name": "fairy-tales"},
    "POST /lora-adapters/unload": {"name": "fairy-tales"},
    "POST /v1/completions": OPENAI,
    "POST /v1/chat/completions": OPENAI_CHAT,
    "POST /v1/embeddings": OPENAI_EMBEDDING,
    "POST /v1/responses": RESPONSE,
    "POST /responses": RESPONSE,
    "POST /chat/completions": OPENAI_CHAT,
    "POST /v1/messages": MESSAGES,
    "POST /v1/messages/count_tokens": {"model": "default", "messages": CHAT},
    "POST /api/generate": {"model": "default", "prompt": STORY, "stream": False, "options": {"num_predict": 16}},
    "POST /api/chat": {"model": "default", "messages": CHAT, "stream": False, "options": {"num_predict": 16}},
    "POST /api/show": {"model": "default"},
    "POST /api/embed": {"model": "default", "input": ["Lily", "a ball"]},
    "POST /api/embeddings": {"model": "default", "prompt": "Lily"},
}

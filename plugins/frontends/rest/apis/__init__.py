"""The wire formats that the server speaks: the 2023 server, OpenAI, Ollama, Anthropic."""

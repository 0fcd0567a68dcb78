"""Architectures of models, each under the name that GGUF files have for it."""

"""Tokenizers: text to token ids and back."""

from llamakit.tokenizer.detokenizer import Detokenizer
from llamakit.tokenizer.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Detokenizer", "Tokenizer", "load_tokenizer"]

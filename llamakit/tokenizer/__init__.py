"""Text to tokens and back: SPM and BPE vocabularies of GGUF files, stop strings, chat templates."""

from llamakit.tokenizer.detokenizer import Detokenizer
from llamakit.tokenizer.load import load_tokenizer
from llamakit.tokenizer.tokenizer import Tokenizer, TokenType

__all__ = ["Detokenizer", "TokenType", "Tokenizer", "load_tokenizer"]

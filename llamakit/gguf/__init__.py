"""GGUF files: reading, writing, and the formats of their tensors."""

from llamakit.gguf.constants import GGMLType, ValueType
from llamakit.gguf.reader import GGUFFile, StringArray, TensorInfo, open_gguf, text_of
from llamakit.gguf.writer import GGUFWriter

__all__ = ["GGMLType", "GGUFFile", "GGUFWriter", "StringArray", "TensorInfo", "ValueType", "open_gguf", "text_of"]

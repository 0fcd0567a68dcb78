"""The smallest vocabulary that can write anything."""

from __future__ import annotations

from llamakit.tokenizer.tokenizer import TokenType
from llamakit.train.vocabulary import Vocabulary

BYTES = Vocabulary(
    ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))], [0.0] * 259,
    [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256],
)  # fmt: skip

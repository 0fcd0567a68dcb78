"""From the metadata of a GGUF file to a tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llamakit.errors import ModelFileError
from llamakit.tokenizer.roles import find_roles
from llamakit.tokenizer.tokenizer import Tokenizer, TokenType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llamakit import _text

PREFIX = "tokenizer.ggml."
MODELS = ("llama", "gpt2", "gemma4")

# Models whose special tokens swallow the white space after them, except these; and those with a mask token that
# swallows what is before it. The file formats have no key for it (llama.cpp's loader goes by the same names).
RIGHT_STRIPPED = ("phi-3", "phi3")
NOT_STRIPPED = (b"<unk>", b"<s>", b"<|endoftext|>")
MASKED_PRE = ("jina-v2-de", "jina-v2-es", "jina-v2-code")


def load_tokenizer(metadata: Mapping[str, object]) -> Tokenizer:
    """The tokenizer that a GGUF file describes.

    Raises ModelFileError for a missing key, an inconsistent one, or a kind of vocabulary that is not supported.
    """
    from llamakit import _text

    model = _required(metadata, "model")
    if not isinstance(model, str) or model not in MODELS:
        raise ModelFileError(
            f"the file's vocabulary is of the kind {repr(model)[:100]}; supported are {', '.join(MODELS)} (SPM and BPE)"
        )
    spm = model == "llama"
    pre, rules = ("", {}) if spm else _pre_type(metadata, model)
    vocabulary = _text.Vocabulary(*_strings(_required(metadata, "tokens"), "tokens"))
    types = _numbers(metadata, "token_type", vocabulary.n_tokens, "uint8", TokenType.NORMAL)
    types[types > TokenType.BYTE] = TokenType.UNDEFINED
    roles = find_roles(metadata, vocabulary, types, model, no_bos=bool(rules.get("no_bos")))
    add_space_prefix = spm and _flag(metadata, "add_space_prefix", True)
    left, right = _stripped(metadata, vocabulary, types, pre)
    merges = [] if spm else metadata.get(PREFIX + "merges", [])
    if not spm and not (isinstance(merges, Sequence) and len(merges)) and pre != "kimi-k2":
        raise ModelFileError("the file has a BPE vocabulary but no tokenizer.ggml.merges: convert the model again")
    native = _text.Tokenizer(
        vocabulary,
        types,
        _numbers(metadata, "scores", vocabulary.n_tokens, "float32", 0),
        *_strings(merges, "merges"),
        left,
        right,
        spm,
        add_space_prefix,
        -1 if roles.unk is None else roles.unk,
        pre,
    )
    gemma = rules.get("family") == "lines" and bool(rules.get("add_bos"))
    return Tokenizer(
        native,
        vocabulary,
        types,
        model="llama" if spm else "gpt2",
        pre=pre,
        special=roles,
        add_bos=gemma or _flag(metadata, "add_bos_token", spm or bool(rules.get("add_bos"))),
        add_eos=_flag(metadata, "add_eos_token", False),
        add_space_prefix=add_space_prefix,
    )


def _required(metadata: Mapping[str, object], key: str) -> object:
    value = metadata.get(PREFIX + key)
    if value is None:
        raise ModelFileError(f"the file has no {PREFIX}{key}, so there is no tokenizer in it")
    return value


def _text_of(metadata: Mapping[str, object], key: str) -> str:
    """A value if it is a text: files may have anything under a key."""
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(PREFIX + key)
    return bool(value) if isinstance(value, int) else default


def _pre_type(metadata: Mapping[str, object], model: str) -> tuple[str, dict[str, object]]:
    """Name and rules of the pre-tokenizer; "default" where the file names none."""
    from llamakit import _text

    name = "gemma4" if model == "gemma4" else _text_of(metadata, PREFIX + "pre") or "default"
    known: dict[str, dict[str, object]] = _text.pre_types()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        raise ModelFileError(
            f"the file's pre-tokenizer {PREFIX}pre is {name[:100]!r}, which is not known{hint}. "
            "A model tokenized by another one would read garbled text; 'default' is used where the key is absent"
        )
    return name, known[name]


def _strings(values: object, key: str) -> tuple[object, NDArray[np.uint64]]:
    """One buffer with all strings, and (n, 2) starts and sizes. Arrays of the GGUF reader are used in place."""
    import numpy as np

    buffer, spans = getattr(values, "buffer", None), getattr(values, "spans", None)
    if buffer is not None and spans is not None:
        return buffer, np.ascontiguousarray(spans, dtype=np.uint64)
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise ModelFileError(f"{PREFIX}{key} is not a list of strings")
    texts = [v if isinstance(v, bytes) else str(v).encode("utf-8", "surrogateescape") for v in values]
    spans = np.zeros((len(texts), 2), np.uint64)
    spans[:, 1] = [len(text) for text in texts]
    spans[1:, 0] = np.cumsum(spans[:-1, 1])
    return b"".join(texts), spans


def _numbers(metadata: Mapping[str, object], key: str, count: int, dtype: str, default: float) -> Any:
    """One number per token as a new array (count,); the default where the file has none."""
    import numpy as np

    values = metadata.get(PREFIX + key)
    if values is None:
        return np.full(count, default, dtype)
    array = values if isinstance(values, np.ndarray) else np.asarray(values if isinstance(values, list) else 0)
    if array.dtype.kind not in "biuf":
        raise ModelFileError(f"{PREFIX}{key} is not a list of numbers")
    if array.ndim != 1 or len(array) < count:
        raise ModelFileError(f"{PREFIX}{key} has the shape {array.shape} for a vocabulary of {count} tokens")
    if dtype == "uint8":
        array = np.clip(np.nan_to_num(array), 0, 255)
    return array[:count].astype(dtype)


def _stripped(
    metadata: Mapping[str, object], vocabulary: _text.Vocabulary, types: NDArray[np.generic], pre: str
) -> tuple[list[int], list[int]]:
    """Tokens that swallow the white space before them, and after them."""
    import numpy as np

    name = _text_of(metadata, "general.name").lower()
    if pre in MASKED_PRE:
        return [i for i in [vocabulary.find(b"<mask>")] if i >= 0], []
    if not any(part in name for part in RIGHT_STRIPPED):
        mask = vocabulary.find(b"[MASK]") if "modern-bert" in name else -1
        return [mask] if mask >= 0 else [], []
    special = np.flatnonzero(np.isin(types, [TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED]))
    kept = {vocabulary.find(text) for text in NOT_STRIPPED}
    return [], [i for i in special.tolist() if i not in kept]

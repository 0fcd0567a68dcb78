"""Small models that say a given text, for tests of what reads answers: tool calls, reasoning, clients, stop strings.

    path = scripted_model("m.gguf", "Let me see.<tool_call>...", template=TEMPLATE, control=("<tool_call>",))
    path = scripted_model("m.gguf", {"": "<tool_call>...", "<tool_response>": "It is 12."}, template=TEMPLATE, ...)

The model is a llama of one layer whose feed-forward is zero. The embedding of a token names its class, and one head of
attention copies the class of the token before it; each token of the text has an output row that answers to the two
tokens before it, and its first token is what follows everything else. So the text is said after any prompt, from its
beginning to the token that ends a generation, at any usual temperature; a prompt that ends with a
part of it is continued.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.errors import UsageError
from llamakit.gguf import GGUFWriter
from llamakit.tokenizer import load_tokenizer
from llamakit.tokenizer.tokenizer import TokenType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PIECE = 4  # characters of a token of the text, more where that would make too many
MOST_PIECES = 384
LOGIT = 40.0  # of what is said next, above all others
SHARPNESS = 40.0  # how far the score of what attention is to find is above all others
ROPE_BASE = 1e6  # the slowest angle hardly turns within a prompt
PREFIX = "tokenizer.ggml."
BEGIN, END = "<s>", "</s>"

Script = list[int]  # tokens


def scripted_model(
    path: str | Path,
    says: str | Mapping[str, str],
    *,
    template: str | None = None,
    control: Iterable[str] = (),
    user_defined: Iterable[str] = (),
    vocabulary: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Path:
    """Write a model that says a text; returns its path.

    `says` may be several texts, by a token of the vocabulary: each is said after a prompt that has its token in it (of
    several the later in the mapping), the one of "" after all others. `template` is its chat template; `control` and
    `user_defined` are tokens beside those of the text's pieces. `vocabulary` gives other `tokenizer.ggml.*` keys in
    place of a vocabulary made for the text; `metadata` are further keys (None removes one).

    UsageError where the vocabulary has no token for one of the texts' names, or where a pair of tokens occurs twice and
    goes on in two ways: a model of this kind knows no more than two tokens.
    """
    texts = {"": says} if isinstance(says, str) else dict(says)
    marks = [*dict.fromkeys([*control, *user_defined])]
    if vocabulary is None:
        vocabulary = _vocabulary(texts, list(control), marks)
        tokenizer = load_tokenizer(vocabulary)
        known = {tokenizer.token_text(i): i for i in range(tokenizer.n_vocab)}
        scripts = {name: [known[_spelled(piece)] for piece in _pieces(texts, marks)[name]] for name in texts}
    else:
        tokenizer = load_tokenizer(vocabulary)
        scripts = {name: tokenizer.encode(text, parse_special=True) for name, text in texts.items()}
    end = tokenizer.eos_id
    if end is None:
        raise UsageError("the vocabulary has no token that ends a generation", hint=f"{PREFIX}eos_token_id")
    triggers: dict[str, int] = {}
    for name in filter(None, scripts):
        token = tokenizer.id_of(name)
        if token is None:
            raise UsageError(f"the vocabulary has no token {name!r}", hint="name it in control or user_defined")
        triggers[name] = token
    network = _Network(tokenizer.n_vocab, scripts, triggers, end)
    keys = {
        "general.architecture": "llama", "general.name": "scripted", "general.file_type": 0, **network.metadata(),
        **vocabulary, **({} if template is None else {"tokenizer.chat_template": template}), **(metadata or {}),
    }  # fmt: skip
    with GGUFWriter(path) as writer:
        for key, value in keys.items():
            writer.add(key, value)
        for name, array in network.tensors().items():
            writer.add_tensor(name, array.astype(np.float32))
    return Path(path)


# -- the vocabulary --------------------------------------------------------------------------------------------------


def _vocabulary(texts: Mapping[str, str], control: Sequence[str], marks: Sequence[str]) -> dict[str, object]:
    """An SPM vocabulary of all bytes, the marks, and pieces of the texts."""
    tokens, types = ["<unk>", BEGIN, END], [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [TokenType.BYTE] * 256
    own = [mark for mark in marks if mark not in tokens]
    tokens += own
    types += [TokenType.CONTROL if mark in control else TokenType.USER_DEFINED for mark in own]
    pieces = [_spelled(piece) for each in _pieces(texts, marks).values() for piece in each]
    new = [piece for piece in dict.fromkeys(pieces) if piece not in tokens]
    return {
        PREFIX + "model": "llama", PREFIX + "tokens": tokens + new,
        PREFIX + "token_type": [int(kind) for kind in types] + [int(TokenType.NORMAL)] * len(new),
        PREFIX + "scores": [0.0] * (len(tokens) + len(new)), PREFIX + "bos_token_id": 1, PREFIX + "eos_token_id": 2,
        PREFIX + "unknown_token_id": 0, PREFIX + "add_space_prefix": False,
    }  # fmt: skip


def _spelled(piece: str) -> str:
    """A piece as SPM vocabularies spell it."""
    return piece.replace(" ", "\u2581")


def _pieces(texts: Mapping[str, str], marks: Sequence[str]) -> dict[str, list[str]]:
    """Each text cut at its marks and then into pieces, none of which is there twice where that can be."""
    size = max(PIECE, sum(map(len, texts.values())) // MOST_PIECES + 1)
    used: set[str] = set()
    parts = {name: _parts(text, marks) for name, text in texts.items()}
    return {name: [piece for part in parts[name] for piece in _cut(part, size, used, marks)] for name in texts}


def _parts(text: str, marks: Sequence[str]) -> list[str]:
    """A text cut before and after each of its marks."""
    found = [(text.find(mark), -len(mark), mark) for mark in (*marks, BEGIN, END) if mark and mark in text]
    if not found:
        return [text] if text else []
    at, _, mark = min(found)
    return [*([text[:at]] if at else []), mark, *_parts(text[at + len(mark) :], marks)]


def _cut(part: str, size: int, used: set[str], marks: Sequence[str]) -> list[str]:
    """A part in pieces of at least `size` characters that are not used yet, if possible."""
    if part in marks or part in (BEGIN, END):
        return [part]
    found: list[str] = []
    while part:
        n = next((n for n in range(size, len(part) + 1) if part[:n] not in used), len(part))
        n = len(part) if len(part) - n < 2 else n
        if part[:n] in used and found:  # what is left is there already: it joins the piece before
            used.discard(found[-1])
            found[-1] += part[:n]
        else:
            found.append(part[:n])
        used.add(found[-1])
        part = part[n:]
    return found


# -- the network -----------------------------------------------------------------------------------------------------


class _Network:
    """The weights. Head 0 looks at the token before; one more for each trigger finds it anywhere in the prompt.

    The residual stream holds the class of the token, a constant, the class of the token before, and the triggers.
    """

    def __init__(self, n_vocab: int, scripts: dict[str, Script], triggers: dict[str, int], end: int) -> None:
        self.n_vocab, self.scripts, self.triggers, self.end = n_vocab, scripts, triggers, end
        said = dict.fromkeys(token for script in scripts.values() for token in script)
        self.class_of = {token: number + 1 for number, token in enumerate(said)}  # 0: every other token
        n_classes = len(said) + 1
        self.dim = -(-n_classes // 32) * 32
        self.n_head = 1 + len(triggers)
        self.constant, self.before, self.found = self.dim, self.dim + 1, 2 * self.dim + 1
        self.n_embd = -(-(self.found + len(triggers)) // 32) * 32

    def metadata(self) -> dict[str, object]:
        """Hyperparameters."""
        return {
            "llama.context_length": 32768, "llama.embedding_length": self.n_embd, "llama.block_count": 1,
            "llama.feed_forward_length": 32, "llama.attention.head_count": self.n_head,
            "llama.attention.head_count_kv": self.n_head, "llama.attention.key_length": self.dim,
            "llama.attention.value_length": self.dim, "llama.attention.layer_norm_rms_epsilon": 1e-6,
            "llama.rope.dimension_count": self.dim, "llama.rope.freq_base": ROPE_BASE,
        }  # fmt: skip

    def tensors(self) -> dict[str, Any]:
        """All of them, by GGUF's names."""
        n, width = self.n_embd, self.n_head * self.dim
        zero, ones = np.zeros, np.ones(n)
        return {
            "token_embd.weight": self._embedding(), "output_norm.weight": ones, "output.weight": self._output(),
            "blk.0.attn_norm.weight": ones, "blk.0.ffn_norm.weight": ones, "blk.0.ffn_gate.weight": zero((32, n)),
            "blk.0.ffn_up.weight": zero((32, n)), "blk.0.ffn_down.weight": zero((n, 32)),
            **self._attention(np.sqrt(n / 2), zero((width, n)), zero((width, n)), zero((width, n)), zero((n, width))),
        }  # fmt: skip

    def _embedding(self) -> Any:
        """(n_vocab, n_embd): the class, and the constant."""
        rows = np.zeros((self.n_vocab, self.n_embd))
        rows[np.arange(self.n_vocab), [self.class_of.get(token, 0) for token in range(self.n_vocab)]] = 1
        rows[:, self.constant] = 1
        for number, token in enumerate(self.triggers.values()):
            rows[token, self.found + number] = 1
        return rows

    def _attention(self, scale: Any, q: Any, k: Any, v: Any, out: Any) -> dict[str, Any]:
        """Queries, keys (both * , n_embd), values and what is made of them; the norm multiplies by `scale`."""
        d = self.dim
        angle = ROPE_BASE ** (-2 * np.arange(d // 2) / d)
        strength = SHARPNESS * np.sqrt(d) / scale
        nearest = np.sum(1 - np.cos(angle))  # by how much the sum of all cosines is less for a neighbour
        q[0:d:2, self.constant] = strength / nearest  # at the angle of its own place,
        k[0:d:2, self.constant], k[1:d:2, self.constant] = np.cos(angle) / scale, np.sin(angle) / scale  # and one on
        v[:d, :d] = np.eye(d) / scale
        out[self.before : self.before + d, :d] = np.eye(d)
        for number in range(len(self.triggers)):
            at = (number + 1) * d
            last = at + d - 2  # turns slowest, so that places matter least
            q[last, self.constant] = 2 * strength
            k[last, self.found + number] = 1 / scale
            k[last, 0] = 0.25 / scale  # the rest of the prompt, where nothing is to be found
            v[at, self.found + number] = np.sqrt(1.5) / scale  # its norm is that of three ones, not two
            out[self.found + number, at] = 1
        return {f"blk.0.attn_{name}.weight": array for name, array in {"q": q, "k": k, "v": v, "output": out}.items()}

    def _output(self) -> Any:
        """(n_vocab, n_embd): both tokens before count 2 together, first tokens 1.2 to 1.7 after anything."""
        rows = np.zeros((self.n_vocab, self.n_embd))
        for name, script in self.scripts.items():
            first, number = (script or [self.end])[0], [*self.triggers].index(name) if name else -1
            rows[first, self.found + number if name else self.constant] = 1.2 + 0.5 * (number + 1) / self.n_head
        steps: dict[tuple[int, int], int] = {}
        for script in self.scripts.values():
            before = [0, *(self.class_of[token] for token in script)]
            for number, following in enumerate([*script[1:], self.end][: len(script)]):
                pair = before[number], before[number + 1]
                if steps.setdefault(pair, following) != following:
                    raise UsageError(
                        "two places of the text look alike: what comes after them differs",
                        hint="a piece of text that is nowhere else between them",
                    )
                rows[following, self.before + pair[0]] = rows[following, pair[1]] = 1
        return rows * LOGIT * 2 / np.sqrt(self.n_embd / 3)

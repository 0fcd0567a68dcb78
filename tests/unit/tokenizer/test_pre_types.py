"""Every splitter against the `regex` package, on the folded alphabet that the published vocabularies were tested with.

Folding: white space beyond ASCII is U+000B, every other character beyond ASCII one representative of its class.
"""

from __future__ import annotations

import random

import pytest

from llamakit import _text
from llamakit.errors import ModelFileError
from llamakit.tokenizer import load_tokenizer

regex = pytest.importorskip("regex", reason="needs the regex package as an oracle")

CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PUNCTUATION = r" ?[^\s\p{L}\p{N}]+[\r\n]*"


def words(digits: str, head: str = CONTRACTION + "|", plain: str = PUNCTUATION, spaces: str = SPACES) -> str:
    return rf"{head}[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{plain}|{spaces}"


def cased(letter: str, digits: str, tail: str) -> str:
    upper, lower = rf"(?:(?={letter})[^a-z])", rf"(?:(?={letter})[^A-Z])"
    return (
        rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{tail}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{tail}|{digits}|"
        rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
    )


LLAMA3, QWEN2 = words(r"\p{N}{1,3}"), words(r"\p{N}")
TAIL = r"|\s*[\r\n]|\s+(?!\S)|\s+"
CJK = r"(?:(?!\s)[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff])+"
HALVES = "|".join(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1))
EXAONE = (
    CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|"
    r"\s*[\r\n]|\s+(?!\S)|\s+"
)
ORACLES: dict[str, list[str]] = {
    "gpt-2": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "bailingmoe": [
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + PUNCTUATION + TAIL
    ],
    "qwen35": [
        CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + SPACES
    ],
    "ufakzeka": [words(r"\p{N}", head="")],
    "seed-coder": [words(r"\p{N}", plain=r" ?[^\s\p{L}\p{N}\r\n]+")],
    "minicpm5": [r"\p{N}{1,3}", words(r"\p{N}+")],
    "laguna": [r"[^\n]+|[\n]+", QWEN2],
    "jais-2": [words(r"\p{N}{1,3}", spaces=rf"\s*[\r\n]+|{HALVES}|\s{{1,2}}(?!\S)|\s{{1}}")],
    "exaone-moe": [EXAONE],
    "gpt-4o": [cased(r"\p{L}", r"\p{N}{1,3}", CONTRACTION + "?")],
    "tekken": [cased(r"\p{L}", r"\p{N}", "")],
    "granite-embed-multi-97m": [cased(r"[\p{L}\p{M}]", r"\p{N}{1,3}", CONTRACTION + "?")],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "chameleon": [
        "<sentinel:[0-9]+>", "(?:IMGIMG)(?:(?:A|B|C|D|E|F|G|H|I){1,4})Z", r"(?:[\t\n]|    |  )", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", GPT2,
    ],
    "whitespace": [r"\S+"],
    "gemma4": [r"[^\n]+|[\n]+"],
}  # fmt: skip

ALPHABET = [
    *"aabBzZ  \t\n\r'sStTrReEvVlLmMdD0129.,!~$+<=>^`|/\"(",
    "é",
    "中",
    "Ⅷ",
    "٣",
    "\u0301",
    "\u3000",
    "€",
    "«",
    "\u0378",
]
WORDS = [
    "'ll",
    "'RE",
    "<sentinel:12>",
    "IMGIMGABZ",
    "    ",
    "\r\n",
    " a",
    "Ab",
    "aB",
    "ÀB",
    "x" * 20,
    " " * 70,
    "\n" * 5,
]


def native_splitter(pre: str) -> _text.Tokenizer:
    import numpy as np

    spans = np.array([[0, 1]], np.uint64)
    vocabulary = _text.Vocabulary(b"a", spans)
    none = np.zeros((0, 2), np.uint64)
    return _text.Tokenizer(
        vocabulary, np.ones(1, np.uint8), np.zeros(1, np.float32), b"", none, [], [], False, False, -1, pre
    )


def pieces_of(text: str, patterns: list[str]) -> list[str]:
    """Each pattern splits the pieces of the one before; what stands between matches is a piece too."""
    pieces = [text] if text else []
    for pattern in patterns:
        found: list[str] = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(pattern, piece):
                found += [piece[at : match.start()], match.group()]
                at = match.end()
            found.append(piece[at:])
        pieces = [piece for piece in found if piece]
    return pieces


@pytest.mark.parametrize("pre", ORACLES)
def test_splitter_agrees_with_regex(pre: str) -> None:
    native = native_splitter(pre)
    rng = random.Random(pre)
    for _ in range(1500):
        text = "".join(
            rng.choice(WORDS) if rng.random() < 0.1 else rng.choice(ALPHABET) for _ in range(rng.randrange(30))
        )
        data = text.encode()
        got, start = [], 0
        for end in native.split(data):
            got.append(data[start:end].decode())
            start = end
        expected = pieces_of(text, [p.replace(r"\p{S}", r"[\p{S}--[~]]") for p in patterns_of(pre)])
        assert [piece for piece in got if piece] == expected, (pre, text)


def patterns_of(pre: str) -> list[str]:
    return ORACLES[pre]


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("superbpe", "1234567", ["1", "234", "567"]),
        ("superbpe", "a 123456b", ["a ", "123", "456", "b"]),
        ("kimi-k2", "hi 中文字 it's", ["hi", " ", "中文字", " it's"]),
        ("tiny_aya", "12345", ["12", "345"]),
        ("afmoe", "12345 กเ", ["12", "345", " ก", "เ"]),
        ("deepseek-llm", "Hi there  ", ["Hi", " there", "  "]),
        ("deepseek-v3", "x~ 12345", ["x", "~", " ", "123", "45"]),
        ("spark2_5", "a!\n\n", ["a", "!", "\n", "\n"]),
        ("youtu", "中文，abC", ["中文", "，", "abC"]),
        ("viking", "a, b 12", ["a", ",", " b", " ", "1", "2"]),
        ("bloom", "a, b 12", ["a", ",", " b", " 12"]),
    ],
)
def test_rules_that_no_pattern_expresses(pre: str, text: str, pieces: list[str]) -> None:
    data, start, got = text.encode(), 0, []
    for end in native_splitter(pre).split(data):
        got.append(data[start:end].decode())
        start = end
    assert got == pieces


def test_every_name_splits_anything_without_loss() -> None:
    names = _text.pre_types()
    assert len(names) == 91
    rng = random.Random(0)
    for name in names:
        native = native_splitter(name)
        for _ in range(30):
            data = rng.randbytes(200) if rng.random() < 0.5 else "".join(rng.choices(ALPHABET, k=100)).encode()
            ends = native.split(data)
            assert ends[-1] == len(data)
            assert ends == sorted(set(ends))


def test_unknown_name_is_an_error_with_near_names() -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "lama-bpe", "tokenizer.ggml.tokens": ["a"]}
    with pytest.raises(ModelFileError, match=r"'lama-bpe'.*llama-bpe"):
        load_tokenizer(metadata)

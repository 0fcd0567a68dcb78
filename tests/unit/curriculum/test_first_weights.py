"""First weights: what stood before is found and said again, before anything was learned."""

from __future__ import annotations

import numpy as np
import pytest
from curriculum import write
from curriculum.first_weights import FirstWeights, Shape
from curriculum.first_weights import write as write_model

from llamakit import Session

SHAPE = Shape(n_ff=64, n_layer=3, n_ctx=256)
TEXT = "<|user|>Tom went to the garden. Amy has a red ball. Leo ate beans. Eva speaks Greek.<|end|><|assistant|>"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("first") / "vocabulary.gguf"
    write.write_vocabulary(path, write.make_vocabulary(3000, 1, shown=300))
    return path


@pytest.fixture(scope="module")
def session(vocabulary):
    model = vocabulary.with_name("first.gguf")
    assert write_model(model, vocabulary, SHAPE) == sum(
        value.size for value in FirstWeights(SHAPE, Session(vocabulary).tokenizer).tensors.values()
    )
    with Session(model, threads=1) as session:
        yield session


@pytest.mark.parametrize(
    ("begun", "next_"),
    [("Tom went to the", " garden"), ("Amy has a", " red"), ("Amy has a red", " ball"), ("Leo ate", " beans"),
     ("Eva speaks", " Greek")],
)  # fmt: skip
def test_what_followed_before_follows_again(session, begun, next_):
    tokens = session.tokenize(TEXT + begun, add_bos=True, parse_special=True)
    best = int(np.argmax(session.logits(tokens)[-1]))
    assert session.tokenizer.piece(best).decode() == next_


def attention(tensors, tokens, block):
    """What the heads of a block attend to, (heads, tokens, tokens): the blocks before it run in numpy."""
    n_head, dim = SHAPE.n_head, SHAPE.n_dim
    angle = np.arange(len(tokens))[:, None] * SHAPE.rope_base ** (-2 * np.arange(dim // 2) / dim)
    x = tensors["token_embd.weight"][tokens]
    for number in range(block + 1):
        h = x / np.sqrt((x * x).mean(-1, keepdims=True) + SHAPE.epsilon)
        q, k, v = (
            (h @ tensors[f"blk.{number}.attn_{name}.weight"].T).reshape(len(tokens), n_head, dim).transpose(1, 0, 2)
            for name in "qkv"
        )
        q, k = (rotated(each, angle) for each in (q, k))
        scores = np.where(np.tri(len(tokens)), q @ k.transpose(0, 2, 1) / np.sqrt(dim), -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        x = x + (shares @ v).transpose(1, 0, 2).reshape(x.shape) @ tensors[f"blk.{number}.attn_output.weight"].T
    return shares


def rotated(x, angle):
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * np.cos(angle) - x[..., 1::2] * np.sin(angle)
    out[..., 1::2] = x[..., 0::2] * np.sin(angle) + x[..., 1::2] * np.cos(angle)
    return out


def test_block_0_looks_one_to_four_back(session):
    tokens = session.tokenize(TEXT, add_bos=True, parse_special=True)
    shares = attention(FirstWeights(SHAPE, session.tokenizer).tensors, tokens, 0)
    for head in range(4):
        assert np.diagonal(shares[head], -1 - head).mean() > 0.95


def test_the_same_seed_gives_the_same_weights(session):
    one, two, other = (FirstWeights(SHAPE, session.tokenizer, seed).tensors for seed in (1, 1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["blk.0.attn_q.weight"], other["blk.0.attn_q.weight"])


def test_a_word_with_a_space_is_like_the_word_without(session):
    rows = FirstWeights(SHAPE, session.tokenizer).tensors["token_embd.weight"]
    rows = rows - rows.mean(axis=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [(session.tokenize(word)[0], session.tokenize(f" {word}")[0]) for word in ("garden", "Tom", "red")]
    assert all(rows[bare] @ rows[spaced] > 0.7 for bare, spaced in ids)
    assert abs(rows[ids[0][0]] @ rows[ids[1][0]]) < 0.5


@pytest.mark.parametrize("shape", [Shape(n_embd=128, n_head=2), Shape(n_embd=100, n_head=4)])
def test_shapes_without_room_are_refused(session, shape):
    with pytest.raises(ValueError, match="at least 4"):
        FirstWeights(shape, session.tokenizer)

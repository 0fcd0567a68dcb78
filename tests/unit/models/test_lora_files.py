"""Adapter files that are damaged, of another kind, or for another model."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest

from llamakit.errors import ModelFileError
from llamakit.gguf import open_gguf
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import ggla_bytes, ggla_pair, gguf_pair, write_gguf_adapter, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with open_gguf(write_tiny_model(tmp_path_factory.mktemp("lora") / "base.gguf")) as file:
        yield load_model(file)


Q = "blk.0.attn_q.weight"


def nan_in(pair, key):
    pair[key][0, 0] = np.nan
    return pair


WRONG = {
    "unknown tensor": (gguf_pair(Q, 2, 0) | {"blk.7.attn_q.weight.lora_a": np.ones((2, 32), np.float32),
                       "blk.7.attn_q.weight.lora_b": np.ones((32, 2), np.float32)}, "blk.7.attn_q.weight"),
    "half a pair": ({f"{Q}.lora_a": np.ones((2, 32), np.float32)}, f"'{Q}.lora_b' is missing"),
    "other ranks": ({f"{Q}.lora_a": np.ones((2, 32), np.float32), f"{Q}.lora_b": np.ones((32, 3), np.float32)}, "rank"),
    "other shape": ({f"{Q}.lora_a": np.ones((2, 31), np.float32), f"{Q}.lora_b": np.ones((32, 2), np.float32)},
                    r"makes \(32, 31\)"),
    "three dims": ({f"{Q}.lora_a": np.ones((2, 4, 8), np.float32), f"{Q}.lora_b": np.ones((32, 2), np.float32)},
                   "does not fit"),
    "huge rank": ({f"{Q}.lora_a": np.ones((999, 32), np.float32), f"{Q}.lora_b": np.ones((32, 999), np.float32)},
                  "rank 999"),
    "NaN": (nan_in(gguf_pair(Q, 2, 0), f"{Q}.lora_b"), "NaN"),
    "too large": ({f"{Q}.lora_a": np.full((2, 32), 1e30, np.float32), f"{Q}.lora_b": np.ones((32, 2), np.float32)},
                  "beyond"),
    "whole matrix": ({Q: np.ones((32, 32), np.float32)}, "only replace a norm"),
    "norm of another size": ({"output_norm.weight": np.ones(16, np.float32)}, "only replace a norm"),
    "nothing": ({}, "holds no adapters"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_gguf_adapter_that_does_not_fit(tmp_path, model, what):
    tensors, message = WRONG[what]
    with pytest.raises(ModelFileError, match=message):
        load_adapter(write_gguf_adapter(tmp_path / "a.gguf", tensors), model)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.type": "model"}, "not an adapter"),
        ({"general.type": "model", "training.type": "finetune_lora"}, "training checkpoint"),
        ({"adapter.type": "control_vector"}, "control_vector"),
        ({"general.architecture": "qwen2"}, "'qwen2'"),
        ({"adapter.lora.alpha": float("nan")}, "alpha"),
        ({"adapter.lora.alpha": "8"}, "alpha"),
        ({"adapter.lora.alpha": 1e38}, "beyond"),
        ({"adapter.alora.invocation_tokens": [1, 2]}, "activated"),
    ],
)
def test_a_gguf_file_of_another_kind(tmp_path, model, metadata, message):
    path = write_gguf_adapter(tmp_path / "a.gguf", gguf_pair(Q, 2, 0), metadata=metadata)
    with pytest.raises(ModelFileError, match=message):
        load_adapter(path, model)


def test_a_ggla_file_that_does_not_fit(tmp_path, model):
    path, pair = tmp_path / "a.bin", ggla_pair(Q, 4, 0)
    twice = ggla_bytes(pair) + ggla_bytes(pair)[16:]
    cases = [
        (ggla_bytes(pair, magic=b"tjgg"), "neither with GGUF nor"),
        (ggla_bytes(pair, version=2), "version 2"),
        (ggla_bytes(pair, r=0), "rank is 0"),
        (ggla_bytes({}), "holds no adapters"),
        (ggla_bytes({f"{Q}.loraA": pair[f"{Q}.loraA"]}), "is missing"),
        (ggla_bytes(ggla_pair(Q, 4, 0) | {"odd": np.ones((2, 2))}), "'odd' belongs to no adapter"),
        (ggla_bytes(nan_in(ggla_pair(Q, 4, 0), f"{Q}.loraA")), "NaN"),
        (ggla_bytes(pair)[:16] + struct.pack("<5I", 2, 4, 0, 1 << 31, 1 << 31) + b"abcd" + bytes(64), "takes"),
        (ggla_bytes(pair)[:16] + struct.pack("<5I", 2, 4, 0, 0, 4) + b"abcd" + bytes(64), "size of 0"),
        (ggla_bytes(pair)[:16] + struct.pack("<5I", 2, 4, 7, 4, 4) + b"abcd" + bytes(64), "type 7"),
        (ggla_bytes(pair)[:16] + struct.pack("<3I", 9, 4, 0) + bytes(64), "9 dimensions"),
        (b"", "0 bytes"),
    ]
    for data, message in cases:
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=message):
            load_adapter(path, model)
    path.write_bytes(twice)
    with pytest.raises(ModelFileError, match="twice"):
        load_adapter(path, model)


def test_paths_that_are_no_files(tmp_path, model):
    for path, message in ((tmp_path, "folder"), (tmp_path / "no", "no file"), ("/dev/null", "device"), ("a\0", "name")):
        with pytest.raises(ModelFileError, match=message):
            load_adapter(path, model)


@pytest.mark.parametrize("kind", ["ggla", "gguf"])
def test_cut_files_are_refused_in_little_memory(tmp_path, model, kind):
    path = tmp_path / "a"
    if kind == "ggla":
        path.write_bytes(ggla_bytes(ggla_pair(Q, 4, 0) | ggla_pair("output_norm.weight", 1, 1)))
    else:
        write_gguf_adapter(path, gguf_pair(Q, 4, 0) | gguf_pair("output.weight", 2, 1))
    data, whole = path.read_bytes(), set()
    load_adapter(path, model)  # the file as it is can be read, and everything is imported
    tracemalloc.start()
    for cut in range(0, len(data), 16):
        path.write_bytes(data[:cut])
        try:
            load_adapter(path, model)
            whole.add(cut)
        except ModelFileError as error:
            assert str(path) in str(error)  # noqa: PT017
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # the file has some KiB; making the model's graph takes more than reading it
    # A ggla file has no count: one cut between two pairs is a whole one. Nothing else may pass, but missing padding.
    ends = {len(ggla_bytes(ggla_pair(Q, 4, 0)))} if kind == "ggla" else set()
    assert all(cut in ends or (kind == "gguf" and cut >= len(data) - 32) for cut in whole)


def test_damaged_bytes_never_pass_unnoticed_as_a_crash(tmp_path, model):
    path = tmp_path / "a.bin"
    data = ggla_bytes(ggla_pair(Q, 4, 0) | ggla_pair("output_norm.weight", 1, 1))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        broken = bytearray(data)
        at = int(rng.integers(0, 120))
        broken[at] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            load_adapter(path, model)
        except ModelFileError:
            refused += 1
    assert refused > 100

"""Merging: the file equals the adapter at run time, says what rounding cost, and takes little memory."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llamakit.engine.adapters import combine
from llamakit.errors import ModelFileError, UsageError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.gguf.native import dequantize, quantize
from llamakit.gguf.quantize import quantize_file
from llamakit.lora.merge import merge_adapters
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import (
    N_EMBD,
    adapted_logits,
    ggla_bytes,
    ggla_pair,
    gguf_pair,
    tiny_shapes,
    write_gguf_adapter,
    write_tiny_model,
)

TOKENS = [1, 7, 3, 40, 12, 9, 9, 2]
MATRICES = [name for name, shape in tiny_shapes().items() if len(shape) == 2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("merge") / "base.gguf")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    tensors = {k: v for i, name in enumerate(MATRICES) for k, v in gguf_pair(name, 1 + i % 4, i, size=0.2).items()}
    tensors["blk.0.attn_norm.weight"] = np.linspace(0.5, 1.5, N_EMBD, dtype=np.float32)
    one = write_gguf_adapter(folder / "one.gguf", tensors, 3.0)
    two = folder / "two.bin"
    two.write_bytes(ggla_bytes(ggla_pair("blk.0.attn_q.weight", 4, 50) | ggla_pair("blk.0.attn_norm.weight", 1, 51)))
    return [(one, 1.0), (two, -0.5)]


def at_run_time(base, adapters):
    with open_gguf(base) as file:
        model = load_model(file)
        loaded = [load_adapter(path, model) for path, _ in adapters]
    return adapted_logits(base, TOKENS, adapters=combine(loaded, [scale for _, scale in adapters]))


def test_a_merged_model_equals_the_adapters_at_run_time(tmp_path, base, adapters):
    report = merge_adapters(base, tmp_path / "m.gguf", adapters)
    expected, found = at_run_time(base, adapters), adapted_logits(tmp_path / "m.gguf", TOKENS)
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(expected - adapted_logits(base, TOKENS)).max() > 0.1
    assert report.changed == len(MATRICES) + 1
    assert all(kind.error_of_change < 1e-6 and kind.type == "F32" for kind in report.kinds)
    with open_gguf(base) as old, open_gguf(tmp_path / "m.gguf") as new:
        assert dict(old.metadata) == dict(new.metadata)
        assert [i.name for i in old.tensors.values()] == [i.name for i in new.tensors.values()]


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "Q4_0", "Q4_1", "Q5_1", "IQ4_NL", "BF16", "MXFP4"])
def test_the_error_that_is_shown_is_the_error_that_was_made(tmp_path, base, adapters, type_name):
    """A quantised base keeps its types; a float base is merged first and quantised once."""
    quantize_file(base, tmp_path / "q.gguf", type_name)
    for source, wanted in ((tmp_path / "q.gguf", None), (base, type_name)):
        report = merge_adapters(source, tmp_path / "m.gguf", adapters[:1], type_name=wanted)
        merge_adapters(source, tmp_path / "exact.gguf", adapters[:1], type_name="F32")
        with (
            open_gguf(source) as old,
            open_gguf(tmp_path / "m.gguf") as new,
            open_gguf(tmp_path / "exact.gguf") as exact,
        ):
            for kind in report.kinds:
                names = [n for n in MATRICES if n.split(".")[-2] == kind.kind and new.tensors[n].type.name == kind.type]
                if kind.kind == "attn_norm":
                    continue
                assert len(names) == kind.tensors
                assert {new.tensors[n].type for n in names} == {old.tensors[n].type for n in names} or wanted
                errors = [(new.tensor(n).astype(np.float64) - exact.tensor(n)).ravel() for n in names]
                changes = [(exact.tensor(n).astype(np.float64) - old.tensor(n)).ravel() for n in names]
                share = np.linalg.norm(np.concatenate(errors)) / np.linalg.norm(np.concatenate(changes))
                assert kind.error_of_change == pytest.approx(share, rel=1e-2, abs=1e-7)
                assert kind.error_of_change > 1e-5
                for n in names:  # rounded once, from the exact sum
                    raw = quantize(new.tensors[n].type, exact.tensor(n))
                    assert np.mean(raw != new.raw(n)) < 1e-3
    assert any("error" in line for line in report.lines())


@pytest.mark.parametrize("type_name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ4_XS", "TQ1_0", "TQ2_0"])
def test_types_of_256_values_are_merged_into(tmp_path, type_name):
    """The base keeps its type: what is written is the sum, quantised once."""
    name, shape, type_ = "blk.0.ffn_up.weight", (24, 512), GGMLType[type_name]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with GGUFWriter(tmp_path / "base.gguf") as writer:
        writer.add("general.architecture", "llama")
        writer.add_tensor(name, quantize(type_, values), type_, shape)
    pair = gguf_pair(name, 4, 0, {name: shape})
    adapter = write_gguf_adapter(tmp_path / "a.gguf", pair, 8.0)
    report = merge_adapters(tmp_path / "base.gguf", tmp_path / "m.gguf", [(adapter, 0.5)])
    with open_gguf(tmp_path / "base.gguf") as old, open_gguf(tmp_path / "m.gguf") as new:
        exact = old.tensor(name) + 0.5 * 2.0 * pair[f"{name}.lora_b"].astype(np.float64) @ pair[f"{name}.lora_a"]
        wanted = dequantize(type_, quantize(type_, exact.astype(np.float32)), shape)
        assert new.tensors[name].type == type_
        assert np.mean(np.abs(new.tensor(name) - wanted) > 1e-5) < 0.01  # Q8_K has float scales
        error, change = np.linalg.norm(exact - new.tensor(name)), np.linalg.norm(exact - old.tensor(name))
    assert report.kinds[0].error_of_change == pytest.approx(error / change, rel=1e-3)


def test_types_that_are_only_read_need_a_type(tmp_path, adapters):
    path = tmp_path / "iq.gguf"
    rng = np.random.default_rng(0)
    with GGUFWriter(path) as writer:
        writer.add("general.architecture", "llama")
        raw = rng.integers(0, 256, GGMLType.IQ2_XXS.n_bytes(256 * 4)).astype(np.uint8)
        writer.add_tensor("blk.0.attn_q.weight", raw, GGMLType.IQ2_XXS, (4, 256))
    shapes = {"blk.0.attn_q.weight": (4, 256)}
    adapter = write_gguf_adapter(tmp_path / "a.gguf", gguf_pair("blk.0.attn_q.weight", 2, 0, shapes))
    with pytest.raises(UsageError, match="IQ2_XXS, which is read but not written.*\n.*--type F16"):
        merge_adapters(path, tmp_path / "m.gguf", [(adapter, 1.0)])
    assert not (tmp_path / "m.gguf").exists()


def test_what_cannot_be_merged_leaves_no_file(tmp_path, base, adapters):
    wrong = write_gguf_adapter(
        tmp_path / "w.gguf", gguf_pair("blk.0.attn_q.weight", 2, 0, {"blk.0.attn_q.weight": (8, 8)})
    )
    other = write_gguf_adapter(
        tmp_path / "o.gguf", gguf_pair(MATRICES[1], 2, 0), metadata={"general.architecture": "qwen2"}
    )
    strange = write_gguf_adapter(
        tmp_path / "s.gguf", gguf_pair("blk.7.attn_q.weight", 2, 0, {"blk.7.attn_q.weight": (8, 8)})
    )
    for bad, fault in (
        (wrong, "does not fit"),
        (other, "'qwen2'"),
        (strange, "does not have"),
        (tmp_path / "no", "no adapter"),
    ):
        with pytest.raises(ModelFileError, match=fault):
            merge_adapters(base, tmp_path / "m.gguf", [*adapters, (bad, 1.0)])
    with pytest.raises(UsageError, match="would replace the base"):
        merge_adapters(base, base, adapters)
    with pytest.raises(UsageError, match="a number is needed"):
        merge_adapters(base, tmp_path / "m.gguf", [(adapters[0][0], float("nan"))])
    with pytest.raises(UsageError, match="no tensor type"):
        merge_adapters(base, tmp_path / "m.gguf", adapters, type_name="Q9")
    assert not list(tmp_path.glob("*m.gguf*"))


PEAK = """
import re, sys
from pathlib import Path
from llamakit.lora.merge import merge_adapters
merge_adapters(sys.argv[1], sys.argv[2], [(sys.argv[3], 1.0)], threads=2)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""  # not ru_maxrss, which a process inherits from the one that started it


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_base_needs_little_memory(tmp_path):
    """Eight tensors of 64 MiB in F32: the peak is far below the 512 MiB of the model."""
    shape, names = (4096, 4096), [f"blk.{i}.attn_output.weight" for i in range(8)]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with GGUFWriter(tmp_path / "big.gguf") as writer:
        writer.add("general.architecture", "llama")
        for name in names:
            writer.add_tensor(name, values)
    tensors = {k: v for name in names for k, v in gguf_pair(name, 4, 0, dict.fromkeys(names, shape)).items()}
    adapter = write_gguf_adapter(tmp_path / "a.gguf", tensors)
    small = write_tiny_model(tmp_path / "small.gguf")
    little = write_gguf_adapter(tmp_path / "b.gguf", gguf_pair(MATRICES[1], 2, 0))

    def peak(*args) -> int:
        out = subprocess.run([sys.executable, "-c", PEAK, *map(str, args)], check=True, capture_output=True, text=True)
        return int(out.stdout) << 10

    grown = peak(tmp_path / "big.gguf", tmp_path / "m.gguf", adapter) - peak(small, tmp_path / "n.gguf", little)
    print(f"peak above a tiny merge: {grown / 2**20:.0f} MiB")
    assert grown < 256 << 20

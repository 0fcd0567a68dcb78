"""Adapters between formats: what comes back is what went in, and what cannot be said is refused by name."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest

from llamakit.errors import LlamaKitError, ModelFileError, UsageError
from llamakit.gguf import GGMLType, open_gguf
from llamakit.gguf.ggla import read_ggla
from llamakit.lora.convert import to_ggla, to_gguf, to_peft
from llamakit.lora.files import read_adapter_file
from llamakit.lora.heads import KEY
from llamakit.lora.safetensors import read_safetensors, write_safetensors
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import (
    N_EMBD,
    ggla_bytes,
    ggla_pair,
    gguf_pair,
    tiny_shapes,
    write_gguf_adapter,
    write_tiny_model,
)
from tests.timing import is_quick

MATRICES = [name for name, shape in tiny_shapes().items() if len(shape) == 2]
HEADS = {
    "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.block_count": 2,
    "general.tags": ["a", "ö"], "general.languages": ["en"], "x.numbers": [1, 2, 3], "x.flag": True, "x.f": 0.1,
}  # fmt: skip
NAMED = {"general.base_model.count": 1, "general.base_model.0.name": "its base"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("convert") / "base.gguf")


def all_pairs(ranks=(3,)):
    tensors = {}
    for i, name in enumerate(MATRICES):
        tensors |= gguf_pair(name, ranks[i % len(ranks)], i)
    return tensors


@pytest.mark.parametrize("type_", [GGMLType.F32, GGMLType.F16], ids=lambda t: t.name)
@pytest.mark.parametrize("alpha", [8.0, 45.2548, 0.0, None])
def test_gguf_to_peft_and_back_is_the_same_file(tmp_path, base, type_, alpha):
    first = write_gguf_adapter(tmp_path / "a.gguf", all_pairs((3, 1, 4)), alpha, type_, HEADS)
    to_peft(read_adapter_file(first), tmp_path / "peft")
    with open_gguf(base) as model:
        to_gguf(read_adapter_file(tmp_path / "peft", model), tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == first.read_bytes()


def test_a_folder_of_ours_needs_no_base(tmp_path, base):
    """What it keeps of the GGUF adapter has the heads: all values are as with the base, F16 has the same head."""
    first = write_gguf_adapter(tmp_path / "a.gguf", all_pairs((3, 1, 4)), 8.0, metadata=HEADS)
    to_peft(read_adapter_file(first), tmp_path / "peft")
    to_gguf(read_adapter_file(tmp_path / "peft"), tmp_path / "b.gguf")
    assert (tmp_path / "b.gguf").read_bytes() == first.read_bytes()
    to_gguf(read_adapter_file(tmp_path / "peft"), tmp_path / "c.gguf", type=GGMLType.F16)
    with open_gguf(tmp_path / "c.gguf") as file:
        assert file.metadata["llama.attention.head_count_kv"] == 2
        assert file.tensors[f"{MATRICES[1]}.lora_a"].type == GGMLType.F16
    named = read_adapter_file(write_gguf_adapter(tmp_path / "n.gguf", all_pairs(), 8.0, metadata=HEADS | NAMED))
    to_peft(named, tmp_path / "named")
    to_gguf(read_adapter_file(tmp_path / "named"), tmp_path / "d.gguf", type=GGMLType.F16)
    assert read_adapter_file(tmp_path / "d.gguf").base_name == "its base"


def test_a_folder_of_ours_without_its_norms_needs_no_base(tmp_path):
    norms = {"output_norm.weight": np.ones(N_EMBD, np.float32)}
    whole = write_gguf_adapter(tmp_path / "n.gguf", all_pairs() | norms, 6.0, metadata=HEADS)
    to_peft(read_adapter_file(whole), tmp_path / "p", without_norms=True)
    to_gguf(read_adapter_file(tmp_path / "p"), tmp_path / "m.gguf")
    expected = write_gguf_adapter(tmp_path / "e.gguf", all_pairs(), 6.0, metadata=HEADS)
    assert (tmp_path / "m.gguf").read_bytes() == expected.read_bytes()


def change_config(folder):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 3}))


@pytest.mark.parametrize(
    "heads", [{}, *({"llama.attention.head_count": value} for value in (10**4000, True))], ids=["none", "huge", "true"]
)
def test_a_folder_that_does_not_say_enough_asks_for_its_base(tmp_path, base, heads):
    to_peft(
        read_adapter_file(write_gguf_adapter(tmp_path / "a.gguf", all_pairs(), 6.0, metadata=HEADS)), tmp_path / "p"
    )
    change_config(tmp_path / "p")
    with pytest.raises(UsageError, match="changed since.*\n.*-m BASE.gguf"):
        read_adapter_file(tmp_path / "p")
    path = tmp_path / "p" / "adapter_model.safetensors"
    tensors, metadata, types = read_safetensors(path)
    ((key, text),) = [(key, text) for key, text in metadata.items() if key != "format"]
    kept = json.loads(text)
    kept["metadata"] = [each for each in kept["metadata"] if "head_count" not in each[0]]
    kept["metadata"] += [[name, 4, None, value] for name, value in heads.items()]
    write_safetensors(path, tensors, types, {key: json.dumps(kept)})
    with pytest.raises(UsageError, match="number of heads.*\n.*-m BASE.gguf"):
        read_adapter_file(tmp_path / "p")
    write_safetensors(path, tensors, types, {"format": "pt"})
    with pytest.raises(UsageError, match="how many heads.*\n.*-m BASE.gguf"):
        read_adapter_file(tmp_path / "p")
    with open_gguf(base) as file:
        assert read_adapter_file(tmp_path / "p", file).tensors


def test_a_folder_of_many_modules_is_read_in_time_by_their_number(tmp_path):
    """For each of them all that there are were gone through: 40,000 took a minute."""
    names = [f"blk.{i}.ffn_up.weight" for i in range(12_000)]
    A, B = np.ones((1, 2), np.float32), np.ones((2, 1), np.float32)
    weights = {
        f"base_model.model.model.layers.{i}.mlp.up_proj.lora_{part}.weight": matrix
        for i in range(len(names)) for part, matrix in (("A", A), ("B", B))
    }  # fmt: skip
    kept = {
        "metadata": [["general.architecture", 8, None, "llama"], ["adapter.lora.alpha", 6, None, 1.0]],
        "tensors": [[f"{name}.{part}", 0] for name in names for part in ("lora_a", "lora_b")],
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    types = dict.fromkeys(weights, GGMLType.F32)
    write_safetensors(tmp_path / "adapter_model.safetensors", weights, types, {KEY: json.dumps(kept)})
    assert is_quick(2.0, lambda: read_adapter_file(tmp_path))


def test_a_head_that_no_longer_fits_is_not_used(tmp_path, base):
    """The configuration of the folder was changed since: its scale counts, not the one that was kept."""
    first = write_gguf_adapter(tmp_path / "a.gguf", all_pairs(), 6.0, metadata=HEADS)
    to_peft(read_adapter_file(first), tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 6)
    change_config(tmp_path / "peft")
    with open_gguf(base) as model:
        read = read_adapter_file(tmp_path / "peft", model)
        to_gguf(read, tmp_path / "b.gguf", model)
    with open_gguf(tmp_path / "b.gguf") as file:
        assert file.metadata["adapter.lora.alpha"] == 3.0
    assert {each.scale for each in read.tensors.values()} == {1.0}


def test_rows_of_q_and_k_change_places(tmp_path):
    """(head, pair, which) in GGUF is (head, which, pair) in PEFT: written out by hand for two heads of four rows."""
    tensors = gguf_pair("blk.0.attn_k.weight", 2, 0) | gguf_pair("blk.0.attn_v.weight", 2, 1)
    first = write_gguf_adapter(tmp_path / "a.gguf", tensors, 2.0, metadata=HEADS)
    to_peft(read_adapter_file(first), tmp_path / "peft")
    stored, _, _ = read_safetensors(tmp_path / "peft" / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn"
    order = [head * 8 + i for head in range(2) for i in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert np.array_equal(stored[f"{prefix}.k_proj.lora_B.weight"], tensors["blk.0.attn_k.weight.lora_b"][order])
    assert np.array_equal(stored[f"{prefix}.k_proj.lora_A.weight"], tensors["blk.0.attn_k.weight.lora_a"])
    assert np.array_equal(stored[f"{prefix}.v_proj.lora_B.weight"], tensors["blk.0.attn_v.weight.lora_b"])


def deltas(path, base) -> dict[str, np.ndarray]:
    """What an adapter does, as the loader for running models has it."""
    found = {}
    with open_gguf(base) as file:
        for name, each in load_adapter(path, load_model(file)).tensors.items():
            b = each.B.astype(np.float64)
            found[name] = each.scale * (b if each.A is None else b @ each.A)
    return found


def test_ggla_to_gguf_and_back(tmp_path, base):
    tensors = ggla_pair("blk.0.attn_q.weight", 4, 0) | ggla_pair("token_embd.weight", 2, 1)
    tensors |= ggla_pair("output_norm.weight", 1, 2)
    first = tmp_path / "a.bin"
    first.write_bytes(ggla_bytes(tensors, r=4, alpha=6))
    with open_gguf(base) as model:
        to_gguf(read_adapter_file(first), tmp_path / "a.gguf", model)
        to_ggla(read_adapter_file(tmp_path / "a.gguf"), tmp_path / "b.bin", model)
    expected = deltas(first, base)
    for other in (tmp_path / "a.gguf", tmp_path / "b.bin"):
        found = deltas(other, base)
        assert found.keys() == expected.keys()
        for name, delta in expected.items():
            np.testing.assert_allclose(found[name], delta, rtol=0, atol=1e-6)
    again = read_ggla(tmp_path / "b.bin")
    assert (again.r, again.alpha) == (4, 6)
    for part in ("loraA", "loraB"):  # of the tensor whose rank is the head's: to the bit
        assert np.array_equal(again.tensors[f"blk.0.attn_q.weight.{part}"], tensors[f"blk.0.attn_q.weight.{part}"])


def test_a_scale_that_whole_numbers_cannot_say_is_folded(tmp_path, base):
    first = write_gguf_adapter(tmp_path / "a.gguf", all_pairs((3, 2)), 4.5)
    to_ggla(read_adapter_file(first), tmp_path / "a.bin")
    head = read_ggla(tmp_path / "a.bin")
    assert head.alpha == head.r
    expected, found = deltas(first, base), deltas(tmp_path / "a.bin", base)
    for name, delta in expected.items():
        np.testing.assert_allclose(found[name], delta, rtol=0, atol=3e-6)


def test_every_fixture_is_read_and_comes_through(tmp_path, test_data):
    folder = test_data / "fixtures" / "training"
    base = folder / "tiny-base-f32.gguf"
    checkpoint, ggla = folder / "seed-finetune-checkpoint-q8_0-it3.gguf", folder / "seed-lora-q8_0-it3.ggla.bin"
    with open_gguf(base) as model:
        for source in (checkpoint, ggla, folder / "parity" / "P-1.gguf", folder / "parity" / "P-2.gguf"):
            to_gguf(read_adapter_file(source), tmp_path / f"{source.stem}.gguf", model)
        to_ggla(read_adapter_file(checkpoint), tmp_path / "again.bin", model)
    assert (tmp_path / "again.bin").read_bytes() == ggla.read_bytes()  # r 4, alpha 4: what the run itself wrote
    expected = deltas(ggla, base)
    for made in (tmp_path / f"{checkpoint.stem}.gguf", tmp_path / f"{ggla.stem}.gguf"):
        found = deltas(made, base)
        for name, delta in expected.items():
            np.testing.assert_allclose(found[name], delta, rtol=0, atol=2e-6)
    assert any(np.abs(deltas(tmp_path / "P-1.gguf", base)[name] - expected[name]).max() > 1e-4 for name in expected)


def config(folder, **changes):
    values = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"} | changes
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def weights(folder, tensors=None):
    q = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    plain = {q.format("A"): np.ones((2, N_EMBD), np.float32), q.format("B"): np.ones((N_EMBD, 2), np.float32)}
    write_safetensors(folder / "adapter_model.safetensors", plain if tensors is None else tensors, {}, {})


def test_patterns_are_regular_expressions_for_the_end_of_a_name(tmp_path, base):
    folder = config(tmp_path / "p", alpha_pattern={r"layers\.0\..*k_proj": 1, "(q|k)_proj": 6}, use_rslora=True)
    weights(folder)
    with open_gguf(base) as file:
        assert read_adapter_file(folder, file).tensors["blk.0.attn_q.weight"].scale == 6 / 2**0.5


REFUSED = {
    'modules_to_save is ["score"]': {"modules_to_save": ["score"]},
    'type "IA3"': {"peft_type": "IA3"},
    "which changed the base": {"init_lora_weights": "pissa_niter_4"},
    "biases of the model": {"bias": "lora_only"},
    "says rank 3": {"r": 3},
    "a number is needed": {"lora_alpha": "eight"},
    "'model.layers.0.self_attn.q_proj' is 1000": {"lora_alpha": 10**400},  # more than a float can hold
    "'model.layers.0.self_attn.q_proj' is null": {"alpha_pattern": {"q_proj": math.nan}},
    "more than a name of modules": {"alpha_pattern": {"(a+)+b": 3}},
    "not a regular expression": {"rank_pattern": {"(q_proj": 3}},
    "names and values": {"rank_pattern": [1]},
    "repeated layers": {"layer_replication": [[0, 1]]},
    "lie transposed": {"fan_in_fan_out": True},
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_a_configuration_asks_for_beyond_lora_is_refused(tmp_path, base, fault):
    folder = config(tmp_path / "p", **REFUSED[fault])
    weights(folder)
    with open_gguf(base) as file, pytest.raises(ModelFileError) as caught:
        read_adapter_file(folder, file)
    assert fault in str(caught.value)


L0 = "base_model.model.model.layers.0"
ONES = np.ones((2, N_EMBD), np.float32)
WEIGHTS = {
    "'model.layers.0.mlp.act'": {f"{L0}.mlp.act.lora_A.weight": ONES, f"{L0}.mlp.act.lora_B.weight": ONES.T},
    "has no matrix lora_B": {f"{L0}.self_attn.q_proj.lora_A.weight": ONES},
    "which is no part of a LoRA": {f"{L0}.self_attn.q_proj.bias": ONES},
    "not a pair of one rank": {
        f"{L0}.self_attn.q_proj.lora_A.weight": ONES,
        f"{L0}.self_attn.q_proj.lora_B.weight": ONES,
    },
    "not (48, 32)": {"base_model.model.lm_head.base_layer.weight": ONES},
    "two adapters": {f"{L0}.mlp.up_proj.lora_A.weight": ONES, f"{L0}.mlp.up_proj.lora_A.default.weight": ONES},
}  # fmt: skip


@pytest.mark.parametrize("fault", WEIGHTS)
def test_weights_that_do_not_add_up_are_refused(tmp_path, base, fault):
    folder = config(tmp_path / "p")
    weights(folder, {key: np.ascontiguousarray(value) for key, value in WEIGHTS[fault].items()})
    with open_gguf(base) as file, pytest.raises(ModelFileError) as caught:
        read_adapter_file(folder, file)
    assert fault in str(caught.value)


@pytest.mark.parametrize("kept", ["[" * 100_000, "{}", "null", '{"metadata":[[1,2,3]],"tensors":[]}', "alpha"])
def test_a_head_that_is_damaged_is_not_used(tmp_path, base, kept):
    """Nested too deeply, of another form, or with a scale that no float can hold."""
    to_peft(
        read_adapter_file(write_gguf_adapter(tmp_path / "a.gguf", all_pairs(), 6.0, metadata=HEADS)), tmp_path / "p"
    )
    path = tmp_path / "p" / "adapter_model.safetensors"
    good = path.read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    head = json.loads(good[8 : 8 + size])
    ((key, old),) = [(key, text) for key, text in head["__metadata__"].items() if key != "format"]
    if kept == "alpha":
        made = json.loads(old)
        next(entry for entry in made["metadata"] if entry[0] == "adapter.lora.alpha")[3] = 10**400
        kept = json.dumps(made)
    text = json.dumps(head | {"__metadata__": {key: kept}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + good[8 + size :])
    with open_gguf(base) as file:
        found = read_adapter_file(tmp_path / "p", file)
    assert found.head is None
    assert {each.scale for each in found.tensors.values()} == {2.0}


def test_what_cannot_be_converted_says_what_would_work(tmp_path, base):
    first = write_gguf_adapter(tmp_path / "a.gguf", gguf_pair(MATRICES[1], 2, 0))
    with pytest.raises(UsageError, match="-m BASE.gguf"):
        to_peft(
            read_adapter_file(write_gguf_adapter(tmp_path / "q.gguf", gguf_pair("blk.0.attn_q.weight", 2, 0))),
            tmp_path / "p",
        )
    norms = {"output_norm.weight": np.ones(N_EMBD, np.float32)}
    whole = write_gguf_adapter(tmp_path / "n.gguf", gguf_pair(MATRICES[1], 2, 0) | norms, metadata=HEADS)
    with pytest.raises(UsageError, match="output_norm.weight.*\n.*--without-norms"):
        to_peft(read_adapter_file(whole), tmp_path / "p")
    to_peft(read_adapter_file(whole), tmp_path / "p", without_norms=True)
    with pytest.raises(UsageError, match="-m BASE.gguf"):
        to_ggla(read_adapter_file(whole), tmp_path / "n.bin")
    tied = write_tiny_model(tmp_path / "tied.gguf", tied=True)
    shared = write_gguf_adapter(tmp_path / "e.gguf", gguf_pair("token_embd.weight", 2, 0))
    with open_gguf(tied) as file, pytest.raises(UsageError, match="as embedding and as output"):
        to_peft(read_adapter_file(shared), tmp_path / "e", file)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a file"):
        to_peft(read_adapter_file(first), tmp_path / "file")
    with pytest.raises(ModelFileError, match="starts neither with GGUF"):
        read_adapter_file(tmp_path / "p" / "adapter_config.json")
    folder = config(tmp_path / "pickle")
    (folder / "adapter_model.bin").write_bytes(b"x")
    with open_gguf(base) as file, pytest.raises(ModelFileError, match="pickle"):
        read_adapter_file(folder, file)


def damage(good: bytes) -> list[bytes]:
    """Files that are no safetensors files, or not all of one."""
    size = struct.unpack("<Q", good[:8])[0]
    head = json.loads(good[8 : 8 + size])
    key = next(key for key in head if key != "__metadata__")
    out = [
        b"",
        b"x",
        good[:7],
        good[:40],
        struct.pack("<Q", 1 << 40) + good[8:],
        good[:-1],
        struct.pack("<Q", 4) + b"[12]",
    ]
    for change in (
        {"dtype": "I64"},
        {"shape": [3]},
        {"shape": "no"},
        {"shape": [-2, -32]},
        {"data_offsets": [0]},
        {"data_offsets": [0, 1 << 60]},
    ):
        text = json.dumps(head | {key: head[key] | change}).encode()
        out.append(struct.pack("<Q", len(text)) + text + good[8 + size :])
    out.append(struct.pack("<Q", 200_000) + b"[" * 200_000)
    return out


def test_damaged_safetensors_are_refused(tmp_path):
    weights(config(tmp_path / "p"))
    path = tmp_path / "p" / "adapter_model.safetensors"
    for bad in damage(path.read_bytes()):
        path.write_bytes(bad)
        with pytest.raises(ModelFileError):
            read_safetensors(path)


def test_safetensors_files_are_what_the_library_reads_and_writes(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors as an oracle")
    rng = np.random.default_rng(0)
    tensors = {
        "a.ö": rng.normal(size=(3, 5)).astype(np.float32),
        "b": rng.normal(size=7).astype(np.float16).astype(np.float32),
    }
    write_safetensors(tmp_path / "ours", tensors, {"b": GGMLType.F16}, {"format": "pt"})
    found = numpy.load_file(tmp_path / "ours")
    assert found["b"].dtype == np.float16
    assert all(np.array_equal(found[name], values) for name, values in tensors.items())
    numpy.save_file({"a": tensors["a.ö"].astype(np.float64), "z": np.zeros((0, 4), np.float32)}, tmp_path / "theirs")
    ours, _, types = read_safetensors(tmp_path / "theirs")
    assert np.array_equal(ours["a"], tensors["a.ö"])
    assert (ours["z"].shape, types["a"]) == ((0, 4), GGMLType.F64)


def test_damage_to_a_gguf_adapter_is_never_more_than_an_error(tmp_path):
    good = write_gguf_adapter(tmp_path / "a.gguf", gguf_pair(MATRICES[1], 2, 0), metadata=HEADS).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good[: rng.integers(1, len(good))] if rng.random() < 0.3 else good)
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(0, min(len(bad), 700))] = rng.integers(0, 256)
        (tmp_path / "bad.gguf").write_bytes(bad)
        try:
            to_peft(read_adapter_file(tmp_path / "bad.gguf"), tmp_path / "p")
        except LlamaKitError:
            continue

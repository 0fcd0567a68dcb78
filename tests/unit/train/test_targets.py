"""Which weights get an adapter, of which rank and scale; what fits nothing or not is told."""

from __future__ import annotations

import pytest

from llamakit import Session
from llamakit.cli import run
from llamakit.errors import UsageError
from llamakit.gguf import open_gguf
from llamakit.testing.hollow import write_hollow_llama
from llamakit.train.options import TrainOptions
from llamakit.train.targets import adapter_shapes, fits
from tests.unit.train.tiny import trainer

ATTENTION = ("attn_q", "attn_k", "attn_v", "attn_output")
FEED_FORWARD = ("ffn_gate", "ffn_up", "ffn_down")
NORMS = ("attn_norm", "ffn_norm")
OUTER = ("token_embd", "output_norm")  # the head is the embedding


def layers(names, of=(0, 1)) -> set[str]:
    return {f"blk.{i}.{name}" for i in of for name in names}


ALL = layers((*ATTENTION, *FEED_FORWARD, *NORMS)) | set(OUTER)


@pytest.mark.parametrize(("targets", "expected"), [
    (None, layers(ATTENTION + FEED_FORWARD)),
    (["*"], ALL),
    (["attn_*"], layers((*ATTENTION, "attn_norm"))),
    (["attn_[!n]*"], layers(ATTENTION)),
    (["attn_q", "ffn_down"], layers(("attn_q", "ffn_down"))),
    (["blk.1.*"], layers((*ATTENTION, *FEED_FORWARD, *NORMS), of=(1,))),
    (["blk.0.ffn_*"], layers((*FEED_FORWARD, "ffn_norm"), of=(0,))),
    (["blk.?.attn_q"], layers(("attn_q",))),
    (["token_embd"], {"token_embd"}),
    (["*_norm"], layers(NORMS) | {"output_norm"}),
    (["attn_q", "attn_*", "blk.0.attn_q"], layers((*ATTENTION, "attn_norm"))),
])  # fmt: skip
def test_globs(base, data, tmp_path, targets, expected):
    """They fit a whole name without .weight, or its last part."""
    options = {} if targets is None else {"targets": targets}
    found = trainer(base, data, tmp_path / "run", **options).adapters
    assert set(found) == {f"{name}.weight" for name in expected}
    rank = {name: 1 if name.endswith("_norm.weight") else 2 for name in found}
    assert {name: (shape.rank, shape.scale) for name, shape in found.items()} == {
        name: (rank[name], 8.0) for name in found  # alpha 16, rank 2
    }  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), [
    ({"rank": 4}, {"attn_q": (4, 4.0), "ffn_up": (4, 4.0)}),
    ({"rank": 4, "rslora": True}, {"attn_q": (4, 8.0), "ffn_up": (4, 8.0)}),
    ({"rank_pattern": {"ffn_*": 8}}, {"attn_q": (2, 8.0), "ffn_up": (8, 2.0), "ffn_down": (8, 2.0)}),
    ({"rank_pattern": {"*": 4, "attn_q": 1}}, {"attn_q": (1, 16.0), "attn_k": (4, 4.0)}),
    ({"rank_pattern": {"attn_q": 1, "*": 4}}, {"attn_q": (4, 4.0), "attn_k": (4, 4.0)}),  # the last that fits wins
    ({"rank_pattern": {"attn_*": 0}}, {"attn_q": None, "attn_output": None, "ffn_up": (2, 8.0)}),
    ({"alpha_pattern": {"ffn_up": 3}}, {"attn_q": (2, 8.0), "ffn_up": (2, 1.5)}),
    ({"alpha_pattern": {"ffn_*": 3, "ffn_up": 5}, "rank_pattern": {"ffn_up": 5}},
     {"ffn_up": (5, 1.0), "ffn_down": (2, 1.5), "attn_q": (2, 8.0)}),
    ({"alpha": 1.0, "rslora": True, "rank_pattern": {"attn_q": 4}}, {"attn_q": (4, 0.5), "attn_k": (2, 2**-0.5)}),
    ({"rank_pattern": {"blk.0.*": 1}}, {"attn_q": (1, 16.0)}),
    ({"targets": ["attn_q"], "rank_pattern": {"ffn_up": 9}}, {"attn_q": (2, 8.0), "ffn_up": None}),
])  # fmt: skip
def test_ranks_and_alphas_by_glob(base, data, tmp_path, options, expected):
    found = trainer(base, data, tmp_path / "run", **options).adapters
    for name, shape in expected.items():
        made = found.get(f"blk.0.{name}.weight")
        assert (made and (made.rank, pytest.approx(made.scale))) == shape, name


@pytest.mark.parametrize(("options", "what", "near"), [
    ({"targets": ["attn_qq"]}, "targets: no weight fits 'attn_qq'", "attn_q"),
    ({"targets": ["attn_q", "fnn_up"]}, "targets: no weight fits 'fnn_up'", "ffn_up"),
    ({"targets": ["blk.2.attn_q"]}, "targets: no weight fits 'blk.2.attn_q'", "attn_q"),
    ({"targets": ["attn_q.weight"]}, "targets: no weight fits 'attn_q.weight'", "attn_q"),
    ({"targets": ["output"]}, "targets: no weight fits 'output'", "output_norm"),
    ({"targets": [""]}, "targets: no weight fits ''", "attn_q"),
    ({"rank_pattern": {"mlp_*": 4}}, "rank_pattern: no weight fits 'mlp_\\*'", "ffn_up"),
    ({"alpha_pattern": {"wq": 4}}, "alpha_pattern: no weight fits 'wq'", "attn_q"),
    ({"rank_pattern": {"*": 0}}, "there is nothing to train: all ranks are 0", ""),
    ({"rank_pattern": {"attn_k": 9}}, "rank 9 is more than the smaller side of 'blk.0.attn_k.weight' .8, 16.", ""),
    ({"rank": 17}, "rank 17 is more than the smaller side of every weight", ""),
    ({"rank": 9, "targets": ["attn_k", "attn_v"]}, "rank 9 is more than the smaller side of every weight", ""),
])  # fmt: skip
def test_what_fits_nothing_is_an_error(base, data, tmp_path, options, what, near):
    with pytest.raises(UsageError, match=what) as caught:
        _ = trainer(base, data, tmp_path / "run", **options).adapters
    assert near in caught.value.found


@pytest.mark.parametrize(("pattern", "name", "expected"), [
    ("attn_q", "blk.10.attn_q.weight", True), ("blk.1.*", "blk.10.attn_q.weight", False),
    ("blk.1*", "blk.10.attn_q.weight", True), ("ATTN_q", "blk.0.attn_q.weight", False),
    ("attn", "blk.0.attn_q.weight", False), ("attn_[qk]", "blk.0.attn_k.weight", True),
    ("*", "output.weight", True), ("out*", "blk.0.attn_output.weight", False),
])  # fmt: skip
def test_fits(pattern, name, expected):
    assert fits(pattern, name) is expected


def test_the_default_rank_is_cut_to_smaller_weights_and_that_is_told(base, data, tmp_path, capsys):
    """Keys of 8 values take no rank of 16; scales stay, and what is written has them."""
    out = tmp_path / "run"
    args = ["--data", data, "--out", out, "-c", 16, "--packing", "wrapped", "--steps", 3, "--lr", 0.05]
    assert run(["finetune", "-m", str(base), *map(str, args)]) == 0
    assert "note       the rank is cut to the size of smaller weights: attn_k 8, attn_v 8\n" in capsys.readouterr().err
    with open_gguf(out / "adapter.gguf") as file:
        shapes = {name: file.tensors[name].shape for name in file.tensors if "blk.0.attn" in name}
    assert shapes["blk.0.attn_k.weight.lora_a"] == (8, 16)
    assert shapes["blk.0.attn_q.weight.lora_a"] == (16, 16)
    whole = trainer(base, data, tmp_path / "other", rank=16)
    assert {shape.scale for shape in whole.adapters.values()} == {1.0}
    assert run(["finetune", "resume", str(out), "--steps", "4"]) == 0
    fits_ = ["finetune", "-m", str(base), *map(str, args), "--out", str(tmp_path / "fits"), "--rank", "8"]
    capsys.readouterr()
    assert run(fits_) == 0
    assert "rank is cut" not in capsys.readouterr().err


def test_defaults_that_a_model_does_not_have_are_passed_over(tmp_path, data):
    """Feed-forward weights of experts get no adapter; those of attention do, with no other flag."""
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_head_kv": 2, "n_ff": 32, "n_vocab": 300, "n_expert": 4}
    path = write_hollow_llama(tmp_path / "experts.gguf", **sizes)
    with Session(path, backend="cpu") as session:
        graph = session.model.build_loss(16)
        assert set(adapter_shapes(graph, TrainOptions())) == {f"blk.0.{name}.weight" for name in ATTENTION}
        with pytest.raises(UsageError, match="no weight fits 'ffn_gate'"):
            adapter_shapes(graph, TrainOptions(targets=["attn_q", "ffn_gate"]))

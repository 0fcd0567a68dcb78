"""Files that a session opens beside its model's are closed with it."""

from __future__ import annotations

import contextlib
import gc
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from llamakit import Session
from llamakit.engine.runner import SPARE_BLOCKS
from llamakit.gguf import open_gguf
from llamakit.testing.lora import write_gguf_adapter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
WANTED = {"max_tokens": 4, "temperature": 0}


def held(path):
    """Descriptors of this process that are open on a file."""
    gc.collect()
    found = 0
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the folder's own, which is closed by now
            found += each.readlink() == Path(path)
    return found


@pytest.fixture
def copy(small_model, tmp_path):
    return shutil.copy(small_model, tmp_path / "other.gguf")


def test_a_draft_model_is_closed(small_model, copy, backend_name):
    with Session(small_model, backend=backend_name, ctx_size=64, draft_model=str(copy), draft=4) as session:
        session.generate("Once", **WANTED)
        before = held(copy)
        assert before
        session.reopen()
        assert held(copy) == before
        session.generate("Once", **WANTED)
    assert held(copy) == 0


def test_a_draft_model_of_another_vocabulary_is_closed(small_model, copy, monkeypatch, backend_name):
    from llamakit.engine import draft_model

    def refuse(*args):
        raise ValueError

    monkeypatch.setattr(draft_model, "check_vocabulary", refuse)
    with (
        Session(small_model, backend=backend_name, ctx_size=64, draft_model=str(copy), draft=4) as session,
        pytest.raises(ValueError),
    ):
        session.engine  # noqa: B018
    assert held(copy) == 0


def test_the_base_of_adapters_is_closed(small_model, copy, tmp_path, backend_name):
    name = "blk.0.attn_q.weight"
    with open_gguf(small_model) as file:
        n_in, n_out = reversed(file.tensors[name].shape)
    rng = np.random.default_rng(1)
    pair = {
        f"{name}.lora_a": rng.normal(size=(2, n_in)).astype(np.float32),
        f"{name}.lora_b": rng.normal(size=(n_out, 2)).astype(np.float32),
    }
    lora = write_gguf_adapter(tmp_path / "lora.gguf", pair)
    with Session(
        small_model, backend=backend_name, ctx_size=64, lora=[(str(lora), 1.0)], lora_base=str(copy), adapter_slots=1
    ) as session:
        expected = session.generate("Once", **WANTED).tokens
        assert held(copy)
        session.reopen()
        assert session.generate("Once", **WANTED).tokens == expected
    assert held(copy) == 0


def test_a_draft_model_has_no_larger_cache_than_its_target(small_model, copy, backend_name):
    with Session(small_model, backend=backend_name, ctx_size=64) as session:
        kv_memory = 3 * session.device.kv_size(session._kv.spec)  # of eight contexts that are asked for
    settings = {"backend": backend_name, "ctx_size": 64, "n_seq": 8, "kv_memory": kv_memory, "activations": "f32"}
    with Session(small_model, draft_model=str(copy), draft=4, **settings) as session:
        drafter = session.engine.drafter
        assert drafter.kv.spec.n_block <= session._kv.spec.n_block
        assert drafter.kv.spec.n_block - SPARE_BLOCKS >= 2  # a context
        assert session._draft.settings.activations == "f32"

"""A model that is unloaded leaves memory at once, though nobody looks for what refers to itself but when asked."""

from __future__ import annotations

import gc
import weakref

import pytest

from llamakit.pool import ModelPool
from llamakit.session import Session


@pytest.mark.parametrize("way", ["asked", "to make room"])
def test_what_was_unloaded_is_gone(small_model, tmp_path, way):
    paths = {"one": small_model, "two": tmp_path / "two.gguf"}
    paths["two"].write_bytes(small_model.read_bytes())
    gc.collect()
    gc.disable()
    pool = ModelPool(paths, lambda path, progress: Session(path, n_seq=2))
    try:
        with pool.lease("one") as session:
            assert session.generate("Once", max_tokens=3).tokens
            known = [weakref.ref(each) for each in (session, session.engine, session.model, session.service)]
        del session
        if way == "asked":
            assert pool.unload("one")
        else:
            pool._free_memory = lambda: 0
            with pool.lease("two"):
                pass
        assert [each() for each in known] == [None] * 4
    finally:
        gc.enable()
        pool.close()

"""Files that change while they are used, and files that are damaged: typed errors, and the process lives."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from llamakit.engine import session_file
from llamakit.errors import LlamaKitError, ModelFileError
from llamakit.gguf import GGMLType, GGUFWriter, open_gguf
from llamakit.session import Session


@pytest.fixture
def copy(small_model, tmp_path):
    file = tmp_path / "model.gguf"
    shutil.copyfile(small_model, file)
    return file


def cut(file, share=0.3):
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))


def test_a_file_that_is_cut_off_while_it_is_mapped(copy):
    """It ended the process with SIGBUS."""
    with open_gguf(copy) as file:
        last = max(file.tensors.values(), key=lambda info: info.offset).name
        assert np.count_nonzero(file.raw(last))
        cut(copy)
        assert np.count_nonzero(file.raw(last)) == 0
        file.tensor(last)
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            file.check()


def test_a_file_that_is_written_to_or_replaced(copy, small_model):
    with open_gguf(copy) as file:
        file.check()
        new = copy.with_suffix(".new")
        shutil.copyfile(small_model, new)
        new.rename(copy)
        file.check()  # what is mapped is the old file, whole
    with open_gguf(copy) as file:
        time.sleep(0.02)
        with copy.open("r+b") as opened:
            opened.write(b"GGUF")
        with pytest.raises(ModelFileError, match="was changed"):
            file.check()


def test_a_model_that_is_cut_off_while_it_loads(copy):
    def progress(done, total):
        if done > total // 4:
            cut(copy)

    session = Session(copy, backend="cpu", threads=1, progress=progress)
    with session, pytest.raises(ModelFileError, match="was changed while it was in use"):
        session.generate("Once", max_tokens=2)


def test_a_model_that_is_cut_off_while_it_serves(copy, serve):
    server = serve({"stories": copy}, settings={"backend_options": {"no_repack": True}}, max_predict=100_000)
    body = {"prompt": "Once", "n_predict": 90_000, "ignore_eos": True, "stream": True}
    with server.open("/completion", body) as response:
        response.read1()
        cut(copy)
        data = b""
        while part := response.read1():
            data += part
    assert b"was changed while it was in use" in data
    status, answer = server.get("/health")
    assert status == 503
    assert "was changed" in answer["error"]["message"]
    assert server.post("/completion", {"prompt": "Once", "n_predict": 1})[0] == 503


def test_a_packed_model_goes_on_without_its_file(copy, serve):
    server = serve({"stories": copy})
    before = server.post("/completion", {"prompt": "Once", "n_predict": 8, "seed": 1})[1]["content"]
    cut(copy, 0)
    assert server.post("/completion", {"prompt": "Once", "n_predict": 8, "seed": 1})[1]["content"] == before
    assert server.get("/health")[0] == 200
    assert server.get("/props")[0] in (200, 500, 503)


@pytest.fixture
def saved(small_model, tmp_path):
    """A session and a file that it saved."""
    with Session(small_model, backend="cpu", threads=1) as session:
        tokens = session.tokenize("Once upon a time there was a girl who had a dog and a cat", add_bos=True)
        session.generate(tokens, max_tokens=2)
        file = tmp_path / "saved.gguf"
        assert session.save_prefix(file, tokens) > 8
        yield session, file


def rewritten(file, **changes):
    """The file with other metadata or another tensor."""
    out = file.with_name("changed.gguf")
    with open_gguf(file) as old, GGUFWriter(out) as writer:
        for key in old.metadata:
            value = changes.get(key.rpartition(".")[2], old.metadata[key])
            if value is not None:
                writer.add(key, value)
        data, shape = np.array(old.raw("kv")).view(np.int8), old.tensors["kv"].shape
        data, shape = changes.get("kv", (data, shape))
        if data is not None:
            writer.add_tensor("kv", data, GGMLType.I8, shape)
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": None}, {"tokens": "none"}, {"tokens": np.array([1.5, 2.5], np.float32)}, {"kv": (None, None)},
        {"tokens": np.array([1, 2, 1 << 30], np.int32)}, {"tokens": np.array([-5, 1], np.int32)},
        {"tokens": np.arange(5, dtype=np.int32)}, {"tokens": np.ones(500, np.int32)},
        {"kv": (np.zeros(32, np.int8), (1, 1, 32))}, {"tokens": 7}, {"key": "other"},
        {"tokens": np.ones(9999, np.int32)},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_damaged_sessions_are_typed_errors_and_take_no_blocks(saved, changes):
    session, file = saved
    free = session.engine.space.pool.n_free
    with pytest.raises(LlamaKitError):
        session.load_prefix(rewritten(file, **changes))
    assert session.engine.space.pool.n_free == free
    assert session.load_prefix(file)


def test_sessions_that_are_cut_off_anywhere(saved):
    session, file = saved
    data, free = file.read_bytes(), session.engine.space.pool.n_free
    part = file.with_name("part.gguf")
    for length in range(0, len(data), max(1, len(data) // 60)):
        part.write_bytes(data[:length])
        with pytest.raises(LlamaKitError):
            session.load_prefix(part)
        assert session.engine.space.pool.n_free == free


def test_a_cache_that_cannot_take_a_session_keeps_its_blocks(saved, monkeypatch):
    session, file = saved
    free = session.engine.space.pool.n_free

    def refuse(cells, data):
        raise ValueError("shapes do not fit")

    monkeypatch.setattr(type(session.engine.space.kv), "restore", lambda self, cells, data: refuse(cells, data))
    with pytest.raises(ModelFileError, match="damaged session: shapes do not fit"):
        session.load_prefix(file)
    assert session.engine.space.pool.n_free == free
    assert session_file.DEFAULT_KEY

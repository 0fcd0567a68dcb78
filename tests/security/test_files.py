"""Files that change while they are used, and files that are damaged: typed errors, and the process lives."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest

from llamakit.errors import ModelFileError
from llamakit.gguf import open_gguf
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

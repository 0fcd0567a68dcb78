"""Files whose names are no text: a server that has them answers, and what it answers is text."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from llamakit.gguf import open_gguf
from llamakit.testing.lora import write_gguf_adapter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are text here")
BROKEN = "\udcff\udcfe"


@pytest.fixture
def server(serve, small_model, tmp_path):
    """A server of such a model, with such adapters beside one whose name is text."""
    folder = tmp_path / "lora"
    folder.mkdir()
    model = Path(os.fsdecode(os.fsencode(tmp_path))) / f"{BROKEN}.gguf"
    shutil.copyfile(small_model, model)
    with open_gguf(small_model) as file:
        n_out, n_in = file.tensors["blk.0.attn_q.weight"].shape
    pair = {"blk.0.attn_q.weight.lora_a": np.ones((2, n_in), np.float32)}
    pair |= {"blk.0.attn_q.weight.lora_b": np.zeros((n_out, 2), np.float32)}
    write_gguf_adapter(folder / "good.gguf", pair)
    for name in (BROKEN, "\x1b[31m\u202e"):
        shutil.copyfile(folder / "good.gguf", folder / f"{name}.gguf")
    settings = {"adapter_slots": 2, "lora": [(str(folder / f"{BROKEN}.gguf"), 1.0)]}
    return serve({"stories": model}, lora_dir=str(folder), settings=settings)


@pytest.mark.parametrize(
    "path",
    ["/models", "/v1/models", "/props", "/api/tags", "/api/ps", "/slots", "/lora-adapters", "/lora-adapters/load",
     "/model.json", "/metrics", "/health"],
)  # fmt: skip
def test_what_a_server_tells_is_text(server, path):
    status, _, data = server.request("GET", path)
    assert status in (200, 501), data
    assert "\x1b" not in data.decode()


def test_names_that_are_no_text_cannot_be_loaded_and_hurt_no_error(server):
    assert server.get("/lora-adapters/load")[1]["names"] == ["good"]
    for name in ("nobody", "goof", "\x1b[31m\u202e"):
        status, _, data = server.request("POST", "/lora-adapters/load", {"name": name})
        assert status == 404
        assert json.loads(data)["error"]["code"] == "not_found"
    body = {"prompt": "x", "n_predict": 1, "lora": [{"id": 99}]}
    status, _, data = server.request("POST", "/completion", body)
    assert status == 400
    assert "no adapter with id 99" in json.loads(data)["error"]["message"]
    assert server.post("/lora-adapters/load", {"name": "good"})[0] == 200
    assert server.post("/completion", body | {"lora": [{"name": "good"}]})[0] == 200

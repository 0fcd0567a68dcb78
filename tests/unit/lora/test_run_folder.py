"""A folder that is named where an adapter is wanted: of a training run, of PEFT, or of neither."""

from __future__ import annotations

import pytest

from llamakit.errors import ModelFileError
from llamakit.gguf import open_gguf
from llamakit.lora.files import adapter_paths, read_adapter_file
from llamakit.lora.merge import merge_adapters
from llamakit.models import load_model
from llamakit.models.lora import load_adapter
from llamakit.testing.lora import gguf_pair, write_gguf_adapter, write_tiny_model

Q = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path):
    return write_tiny_model(tmp_path / "base.gguf")


@pytest.fixture
def run(tmp_path):
    (tmp_path / "tales").mkdir()
    return write_gguf_adapter(tmp_path / "tales" / "adapter.gguf", gguf_pair(Q, 4, 0)).parent


def test_a_runs_folder_stands_for_its_adapter(tmp_path, base, run, monkeypatch):
    with open_gguf(base) as file:
        model = load_model(file)
        found = load_adapter(run, model)
        assert (found.name, found.path) == ("tales", run / "adapter.gguf")
        assert load_adapter(found.path, model).name == "adapter"
        monkeypatch.chdir(run)
        assert load_adapter(".", model).name == "tales"
    assert read_adapter_file(run).format == "gguf"
    assert adapter_paths(run) == [found.path]
    merge_adapters(base, tmp_path / "a.gguf", [(run, 1.0)])
    merge_adapters(base, tmp_path / "b.gguf", [(found.path, 1.0)])
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("files", [("model.gguf",), (), ("adapter_config.json", "adapter.gguf")], ids=str)
def test_other_folders_say_what_would_work(base, tmp_path, files):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in files:
        (folder / name).write_bytes(b"{}")
    expected = {
        (): "neither adapter.gguf nor adapter_config.json.*\n.*folder of a training run",
        ("model.gguf",): f"without an adapter.*\n.*a whole model\n.*-m {folder}/model.gguf",
    }
    with open_gguf(base) as file:
        with pytest.raises(ModelFileError, match=expected.get(files, f"PEFT folder.*\n.*lora import {folder} -m")):
            load_adapter(folder, load_model(file))
        with pytest.raises(ModelFileError, match=expected.get(files, "PEFT adapter of type")):
            read_adapter_file(folder, file)


def test_a_runs_folder_is_no_model(run):
    with pytest.raises(ModelFileError, match=f"is a folder.*\n.*\n.*-m BASE.gguf --lora {run}/adapter.gguf"):
        open_gguf(run)
    (run / "other.gguf").write_bytes(b"x")
    with pytest.raises(ModelFileError, match=f"is a folder.*\n.*\n.*-m {run}/other.gguf"):
        open_gguf(run)

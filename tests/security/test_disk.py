"""A disk that takes no more: the error names the file and what was needed, and nothing is left half-written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from llamakit.plugins.frontends.rest import errors

from llamakit.cli import run
from llamakit.errors import FileWriteError, LlamaKitError, ModelFileError
from llamakit.gguf import GGUFWriter, ggla
from llamakit.gguf.atomic import whole_file, write_error
from llamakit.gguf.file_bytes import FileBytes
from llamakit.lora import safetensors
from llamakit.train import checkpoint


@pytest.fixture
def full(monkeypatch):
    """A disk that is full when files are flushed to it."""

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


def test_a_full_disk_is_told_with_the_file_and_what_was_needed(full, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"old")
    with pytest.raises(FileWriteError) as caught, GGUFWriter(file) as writer:
        writer.add_tensor("x", np.ones((1024, 1024), np.float32))
    assert f"{file} cannot be written: No space left on device" in str(caught.value)
    assert "it takes 4.00 MiB or more" in caught.value.found
    assert f"are free in {tmp_path}" in caught.value.found
    assert "another disk" in caught.value.hint
    assert caught.value.exit_code == 6
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]
    assert file.read_bytes() == b"old"
    told = checkpoint.write_error(file, caught.value)  # of a training run
    assert "No space left" in str(told)
    assert "it takes 4.00 MiB" in str(told)


def test_what_is_no_fault_of_the_file_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileWriteError, match="Not a directory|File exists"), whole_file(tmp_path / "file" / "out"):
        pass
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [["tokenize", "Once"], ["inspect"]])
def test_output_to_a_full_disk(args, small_model):
    command = [sys.executable, "-m", "llamakit", args[0], "-m", str(small_model), *args[1:]]
    with open("/dev/full", "wb") as out:  # noqa: PTH123 - a device
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 6
    assert done.stderr == "error: the output cannot be written: No space left on device\n"


def test_a_server_that_could_not_write_says_507():
    error = write_error(Path("/srv/models/secret/kept"), OSError(errno.ENOSPC, "No space left on device"), 1 << 20)
    assert errors.status_of(error) == "507 Insufficient Storage"
    record = errors.body_of(error)["error"]
    assert (record["code"], record["message"]) == ("cannot_write", "kept cannot be written: No space left on device")
    assert "secret" not in str(record), "folders of this machine stay here"


# -- files that are cut off while they are read ---------------------------------------------------------------------


def test_adapters_that_are_cut_off_while_they_are_read(tmp_path, monkeypatch):
    values = {f"t{i}.lora{ab}": np.ones((64, 4), np.float32) for i in range(8) for ab in "AB"}
    old, new = tmp_path / "old.ggla", tmp_path / "new.safetensors"
    ggla.write_ggla(old, 4, 4, values)
    safetensors.write_safetensors(new, values, {}, {})
    original = FileBytes.__getitem__

    def cut_after_a_while(self, wanted):
        if wanted.start and wanted.start > 2000:
            os.truncate(self.path, 2048)
        return original(self, wanted)

    monkeypatch.setattr(FileBytes, "__getitem__", cut_after_a_while)
    for read, file in ((ggla.read_ggla, old), (safetensors.read_safetensors, new)):
        with pytest.raises(ModelFileError, match="was changed while it was in use"):
            read(file)


def test_bytes_of_a_file(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(bytes(range(100)))
    with FileBytes(file) as data:
        assert (len(data), data[:3], data[98:200], data[5:5], data[7:6]) == (100, b"\0\1\2", b"bc", b"", b"")
        os.truncate(file, 10)
        assert data[:10] == bytes(range(10))
        with pytest.raises(LlamaKitError, match="cut off"):
            data[5:11]


def test_memory_that_is_not_there_is_no_defect(monkeypatch, small_model, capsys):
    """It was told as an internal error that is worth reporting."""

    def short(path):
        raise MemoryError("Unable to allocate 4.00 GiB")

    monkeypatch.setattr("llamakit.gguf.open_gguf", short)
    assert run(["inspect", str(small_model)]) == 4
    told = capsys.readouterr().err
    assert "not enough free memory" in told
    assert "4.00 GiB" in told
    assert "internal" not in told

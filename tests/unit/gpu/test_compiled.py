"""Compiled kernels on disk: what is kept comes back, what is damaged does not."""

from __future__ import annotations

import threading

from llamakit.gpu import compiled
from llamakit.gpu.compiled import CompiledKernels, folder


def test_what_is_kept_comes_back(tmp_path):
    kernels = CompiledKernels(tmp_path / "new" / "folder")
    key = kernels.key("source", "options", "device")
    assert kernels.get(key) is None
    kernels.put(key, b"code")
    assert kernels.get(key) == b"code"
    assert kernels.get(kernels.key("source", "options", "other device")) is None
    assert [path.name for path in kernels.folder.iterdir()] == [key]  # nothing half-written is left


def test_keys_tell_parts_apart():
    assert CompiledKernels.key("ab", "c") != CompiledKernels.key("a", "bc")


def test_damaged_files_count_as_missing(tmp_path):
    kernels = CompiledKernels(tmp_path)
    for damage in (b"", b"short", None):
        kernels.put("key", b"code")
        path = tmp_path / "key"
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
        assert kernels.get("key") is None
        kernels.put("key", b"code")
        assert kernels.get("key") == b"code"


def test_a_folder_that_cannot_be_written_keeps_nothing_and_that_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    for _ in range(2):
        kernels = CompiledKernels(tmp_path / "file" / "below")
        kernels.put("key", b"code")
        kernels.put("other", b"code")
    assert kernels.get("key") is None
    assert kernels.keep_log("key", "text") == ""
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "compiled kernels are not kept, so they are compiled at every start"
    ]


def test_a_user_without_a_home_keeps_nothing(monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(compiled, "_told", set())

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiled.Path, "home", homeless)
    assert folder() is None
    kernels = CompiledKernels()
    kernels.put("key", b"code")
    assert kernels.get("key") is None
    assert kernels.keep_log("key", "text") == ""
    assert "XDG_CACHE_HOME" in caplog.text


def test_many_write_the_same_at_once(tmp_path):
    kernels = CompiledKernels(tmp_path)
    data = bytes(range(256)) * 1000
    threads = [threading.Thread(target=kernels.put, args=("key", data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kernels.get("key") == data
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "llamakit" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder().parts[-3:] == (".cache", "llamakit", "kernels")

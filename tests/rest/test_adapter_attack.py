"""`--lora-watch` while the adapter is cut off, removed, or no file at all: two clients are answered all the time."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from llamakit.testing.lora import gguf_pair, write_gguf_adapter
from llamakit.testing.vocabulary import BYTES
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary
from tests import serving
from tests.waiting import until

MATRIX = "blk.0.attn_q.weight"
FAST = 0.25  # seconds that a state of the file stays: the server looks once a second


def adapter(path: Path, seed: int, rank: int = 4) -> bytes:
    """A whole adapter, put in its place at once."""
    shapes = {MATRIX: (16, 16)}
    temporary = path.with_name("next")
    write_gguf_adapter(temporary, gguf_pair(MATRIX, rank, seed, shapes))
    temporary.replace(path)
    return path.read_bytes()


def removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def states(path: Path, whole: bytes):
    """What an unlucky or a hostile user does to the file, one after the other."""
    for length in (len(whole) - 1, len(whole) // 2, 200, 24, 4, 1, 0):
        path.write_bytes(whole[:length])  # in place: what was read of it may go under one's feet
        yield f"cut to {length}"
    os.truncate(path, 1 << 33)
    yield "a hole of 8 GiB"
    removed(path)
    yield "removed"
    path.mkdir()
    yield "a folder"
    removed(path)
    os.mkfifo(path)
    yield "a pipe that nobody writes to"
    removed(path)
    path.symlink_to("/dev/zero")
    yield "a device"
    removed(path)
    path.symlink_to(path)
    yield "a link to itself"
    removed(path)
    path.write_bytes(whole.replace(b"lora_a", b"lora_x"))
    yield "other names"
    path.write_bytes(whole.replace(b"llama", b"lllll"))
    yield "another architecture"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")
def test_clients_are_answered_whatever_becomes_of_the_adapter(tmp_path):
    base, out = tmp_path / "base.gguf", tmp_path / "run"
    out.mkdir()
    shape = choose_shape(ShapeOptions(embd=16, layers=1, heads=2, ff=32), 259, 256)
    write_new_model(base, shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    path = out / "adapter.gguf"
    whole = adapter(path, 1)
    faults, answers, ended = [], [0, 0], threading.Event()
    with serving.Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:

        def client(number: int) -> None:
            while not ended.is_set():
                started = time.monotonic()
                body = {"prompt": f"client {number}", "n_predict": 24, "temperature": 0}
                if number:
                    body["lora"] = [{"name": "run", "scale": 0.5}]
                status, found = server.request("POST", "/completion", body)
                if status != 200 or time.monotonic() - started > 20:
                    faults.append((status, found, time.monotonic() - started))
                answers[number] += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in (0, 1)]
        for thread in threads:
            thread.start()
        told = []
        try:
            for state in states(path, whole):
                before = list(answers)
                time.sleep(FAST if state.startswith("cut") else 1.2)
                until(lambda before=before: all(answers[i] > before[i] for i in (0, 1)))
                told.append(state)
                assert server.request("GET", "/health")[0] == 200
            removed(path)
            adapter(path, 2, rank=2)  # and a whole one again
            until(lambda: [each["rank"] for each in server.request("GET", "/lora-adapters")[1]] == [2])
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert faults == []
        assert len(told) == 15
        assert "Traceback" not in server.output()

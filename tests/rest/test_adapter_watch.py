"""`--lora-watch`: a server beside a training run serves what the run has learned so far."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import pytest

from llamakit import Session
from llamakit.testing.vocabulary import BYTES
from llamakit.train.scratch import ShapeOptions, choose_shape, write_new_model
from llamakit.train.vocabulary import add_vocabulary
from llamakit.training import Trainer
from tests.waiting import until


def serving():
    spec = importlib.util.spec_from_file_location("serving", Path(__file__).parents[1] / "serving.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


QUICK = {
    "ctx": 32, "batch": 4, "rank": 4, "alpha": 16.0, "lr": 3e-2, "schedule": "constant", "packing": "wrapped",
    "val_split": 0.0, "save_every": 0,
}  # fmt: skip


def train(base, text, out, **options):
    data = out.with_suffix(".txt")
    data.write_text(text * 200)
    Session(base).trainer(data=[str(data)], out=str(out), **QUICK | options).run()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that writes the alphabet."""
    folder = tmp_path_factory.mktemp("base")
    shape = choose_shape(ShapeOptions(embd=16, layers=1, heads=2, ff=32), 259, 64)
    write_new_model(folder / "first.gguf", shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    train(folder / "first.gguf", "abcdefghij", folder / "run", full=True, steps=100)
    return folder / "run" / "model.gguf"


def adapters(server):
    status, found = server.request("GET", "/lora-adapters")
    assert status == 200
    return found


def written(server) -> str:
    status, found = server.request("POST", "/completion", {"prompt": "abc", "n_predict": 12, "temperature": 0})
    assert status == 200
    return found["content"]


def expected(base, out) -> str:
    with Session(base, lora=[(str(out / "adapter.gguf"), 1.0)]) as session:
        return session.generate("abc", max_tokens=12, samplers=("greedy",)).text


@pytest.mark.slow
def test_a_server_serves_what_a_run_has_learned_so_far(base, tmp_path):
    out = tmp_path / "back"
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:
        assert adapters(server) == []
        before = written(server)
        assert before.startswith("defghij")
        train(base, "jihgfedcba", out, steps=12)
        until(lambda: adapters(server))
        (first,) = adapters(server)
        assert (first["name"], first["path"], first["scale"], first["rank"]) == ("back", "adapter.gguf", 1.0, 4)
        assert written(server) == expected(base, out) != before

        seen = []  # that the adapter is never missing while it is replaced
        Trainer.resume(out, steps=60).run()
        second = expected(base, out)
        assert second.startswith("bajihgfe")

        def replaced():  # not at the first "loaded again": the run may have been caught between two saves
            seen.extend(adapters(server))
            return "loaded again" in server.output() and written(server) == second

        until(replaced)
        assert {(each["id"], each["name"]) for each in seen} == {(first["id"], "back")}

        temporary = tmp_path / "broken"
        temporary.write_bytes(b"GGUF and nothing else")
        temporary.replace(out / "adapter.gguf")
        until(lambda: "adapter back is not loaded, what was there stays" in server.output())
        assert written(server) == second
        assert len(adapters(server)) == 1
        time.sleep(2.5)
        assert server.output().count("is not loaded") == 1  # told once, not every second
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:  # and a broken one at the start
        assert adapters(server) == []
        assert written(server) == before


@pytest.mark.slow
def test_an_adapter_that_is_there_is_loaded_before_the_first_request(base, tmp_path):
    out = tmp_path / "run"
    train(base, "jihgfedcba", out, steps=2)
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:
        (found,) = adapters(server)
        assert found["name"] == "run"
        assert server.request("POST", "/lora-adapters", [{"name": "run", "scale": 0.0}])[0] == 200
        Trainer.resume(out, steps=4).run()
        until(lambda: "loaded again" in server.output())
        (found,) = adapters(server)
        assert found["scale"] == 0.0  # what a person has set stays

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

PATIENCE = 30.0  # seconds; the server looks once a second


def serving():
    spec = importlib.util.spec_from_file_location("serving", Path(__file__).parents[1] / "serving.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def base(tmp_path):
    shape = choose_shape(ShapeOptions(embd=16, layers=1, heads=2, ff=32), 259, 64)
    write_new_model(tmp_path / "base.gguf", shape, lambda writer: add_vocabulary(writer, BYTES), seed=1)
    return tmp_path / "base.gguf"


def adapters(server):
    status, found = server.request("GET", "/lora-adapters")
    assert status == 200
    return found


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def written(server) -> str:
    status, found = server.request("POST", "/completion", {"prompt": "the ", "n_predict": 12, "temperature": 0})
    assert status == 200
    return found["content"]


def expected(base, out) -> str:
    with Session(base, lora=[(str(out / "adapter.gguf"), 1.0)]) as session:
        return session.generate("the ", max_tokens=12, samplers=("greedy",)).text


@pytest.mark.slow
def test_a_server_serves_what_a_run_has_learned_so_far(base, tmp_path):
    out, data = tmp_path / "cats", tmp_path / "data.txt"
    data.write_text("the cat sat on the mat. " * 60)
    options = {"ctx": 32, "batch": 2, "rank": 4, "lr": 5e-2, "targets": ["*"], "packing": "wrapped", "val_split": 0.0}
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:
        assert adapters(server) == []
        before = written(server)
        Session(base).trainer(data=[str(data)], out=str(out), steps=20, schedule="constant", **options).run()
        until(lambda: adapters(server))
        (first,) = adapters(server)
        assert (first["name"], first["path"], first["scale"], first["rank"]) == ("cats", "adapter.gguf", 1.0, 4)
        assert written(server) == expected(base, out) != before

        seen = []  # that the adapter is never missing while it is replaced
        Trainer.resume(out, steps=40).run()
        second = expected(base, out)

        def replaced():
            seen.extend(adapters(server))
            return "loaded again" in server.output()

        until(replaced)
        assert {(each["id"], each["name"]) for each in seen} == {(first["id"], "cats")}
        assert written(server) == second

        temporary = tmp_path / "broken"
        temporary.write_bytes(b"GGUF and nothing else")
        temporary.replace(out / "adapter.gguf")
        until(lambda: "adapter cats is not loaded, what was there stays" in server.output())
        assert written(server) == second
        assert len(adapters(server)) == 1
        time.sleep(2.5)
        assert server.output().count("is not loaded") == 1  # told once, not every second
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:  # and a broken one at the start
        assert adapters(server) == []
        assert written(server) == before


@pytest.mark.slow
def test_an_adapter_that_is_there_is_loaded_before_the_first_request(base, tmp_path):
    out, data = tmp_path / "run", tmp_path / "data.txt"
    data.write_text("the cat sat on the mat. " * 60)
    Session(base).trainer(data=[str(data)], out=str(out), steps=2, ctx=16, rank=2, packing="wrapped").run()
    with serving().Server(base, tmp_path / "log", "--lora-watch", str(out)) as server:
        (found,) = adapters(server)
        assert found["name"] == "run"
        assert server.request("POST", "/lora-adapters", [{"name": "run", "scale": 0.0}])[0] == 200
        Trainer.resume(out, steps=4).run()
        until(lambda: "loaded again" in server.output())
        (found,) = adapters(server)
        assert found["scale"] == 0.0  # what a person has set stays

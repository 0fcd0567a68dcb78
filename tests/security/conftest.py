"""Servers in this process and in processes of their own, and an engine over a hash model, for attacks on them."""

from __future__ import annotations

import importlib.util
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def module(path: str):
    """A module of the tests by its path below tests/."""
    name = "llamakit_tests_" + path.replace("/", "_").removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def hash_model():
    """An engine over a stand-in for a model: `hash_model.make_engine()`."""
    return module("unit/engine/hash_model.py")


@pytest.fixture(scope="session")
def module_of():
    """`module_of("fuzz/readers.py")`: a module of the tests."""
    return module


@pytest.fixture(scope="session")
def serving():
    """Servers in processes of their own: `serving.Server`."""
    return module("serving.py")


@pytest.fixture
def serve(small_model):
    """Start a server in this process: `serve(parallel=2)`; stopped at the end of the test."""
    with ExitStack() as stack:
        yield module("rest/conftest.py").starter(stack, small_model)


@pytest.fixture(scope="module")
def server(small_model):
    """One server for all tests of a module."""
    with module("rest/conftest.py").running({"stories": small_model}) as client:
        yield client


@pytest.fixture
def process(small_model, tmp_path, serving):
    """Start a server in a process of its own: `process("--parallel", "4")`; stopped at the end of the test."""
    with ExitStack() as stack:

        def start(*options, model=small_model):
            return stack.enter_context(serving.Server(model, tmp_path / "server.log", *options))

        yield start

"""How the CPU backend is set: numbers of threads, the cores that they stay on, where weights lie."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from llamakit.plugins.backends.cpu.cores import over_nodes, parse_cores, show_cores
from llamakit.plugins.backends.cpu.device import CPUKVCache

from llamakit import system
from llamakit.backend import CacheLayer, KVSpec
from llamakit.errors import UsageError
from llamakit.session import Session

CORES = system.cores()


def test_lists_of_cores():
    assert parse_cores("") == []
    assert parse_cores(f"{CORES[-1]}, {CORES[0]}") == [CORES[-1], CORES[0]]
    assert set(parse_cores(f"{CORES[0]}-{CORES[-1]}")) == set(CORES)
    assert show_cores([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


@pytest.mark.parametrize("text", ["a", "0-", "-1", "1-0-2", "0;1", "99999", "0-99999", "9999999999999999999999"])
def test_what_is_no_list_of_cores_is_refused(text):
    with pytest.raises(UsageError, match=r"backend\.cpu\.affinity"):
        parse_cores(text)


def test_cores_of_the_nodes_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "cores", lambda: [0, 1, 2, 3, 6])
    for node, text in enumerate(["0-2\n", "3-5,6\n"]):
        folder = tmp_path / f"node{node}"
        folder.mkdir()
        (folder / "cpulist").write_text(text)
    assert over_nodes(tmp_path) == [0, 3, 1, 6, 2]
    assert over_nodes(tmp_path / "none") == [0, 1, 2, 3, 6]


@pytest.mark.parametrize(
    "options",
    [
        {"threads_batch": 3}, {"threads_batch": 1}, {"affinity": str(CORES[0])}, {"numa": True, "threads_batch": 5},
        {"no_repack": True}, {"no_repack": True, "no_mmap": True},
    ],
)  # fmt: skip
def test_the_bits_do_not_depend_on_who_computes(small_model, options):
    text = "Once upon a time there was a little girl named Lily. She loved to play outside in the park with a dog."
    with Session(small_model, backend="cpu", threads=1) as session:
        expected = session.generate(text, max_tokens=40, temperature=0).tokens
        logits = session.logits(expected)
    with Session(small_model, backend="cpu", threads=2, backend_options=options) as session:
        for _ in range(5):  # prompts and single tokens in turn: other threads take part each time
            assert session.generate(text, max_tokens=40, temperature=0).tokens == expected
        assert np.array_equal(session.logits(expected), logits)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_stay_on_their_cores_and_the_caller_is_left_as_it_was(small_model):
    def allowed():
        return {
            line.split()[1]
            for task in Path("/proc/self/task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("Cpus_allowed_list")
        }

    before = allowed()
    with Session(small_model, backend="cpu", threads=3, backend_options={"affinity": str(CORES[-1])}) as session:
        session.generate("Once", max_tokens=4)
        assert str(CORES[-1]) in allowed()
        assert system.cores() == CORES
    assert before <= allowed() | {show_cores(CORES)}


def test_others_go_on_while_keys_and_values_are_copied():
    """Nothing else ran in the process while a context was copied: for 5 s, no client was told that the server lives."""
    kv = CPUKVCache(KVSpec(layers=(CacheLayer(8, 128, 128),) * 8, n_block=128, block_size=16), "generic")
    turns, ended, interval = [], threading.Event(), sys.getswitchinterval()

    def take_turns():
        while not ended.wait(0.001):
            turns.append(1)

    other = threading.Thread(target=take_turns)
    other.start()
    sys.setswitchinterval(60)  # so that the other has a turn only where it is let
    try:
        cells, before = list(range(128 * 16)), len(turns)
        data = kv.export(cells)
        between = len(turns)
        kv.restore(cells, data)
        after = len(turns)
    finally:
        sys.setswitchinterval(interval)
        ended.set()
        other.join()
    assert before + 1 < between
    assert between + 1 < after

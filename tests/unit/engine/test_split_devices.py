"""A model over several devices: the same answers as on one, with all that an engine does."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from llamakit.plugins.frontends.rest.flags import settings_from

from llamakit import Session
from llamakit.backend import DeviceInfo, Memory
from llamakit.cli import llamakit
from llamakit.devices.split import Member, SplitDevice
from llamakit.engine import engine, speculation
from llamakit.engine.job import Finished, Job
from llamakit.errors import BackendError, LlamaKitError, UsageError
from llamakit.graph.errors import GraphError
from llamakit.models import GraphSizes
from llamakit.passes.placement import place, split
from llamakit.testing.lora import gguf_pair, write_gguf_adapter

PROMPT = "Once upon a time there was a little girl who"
SETTINGS = {"threads": 1, "ctx_size": 64, "batch_size": 16, "kv_type": "f32", "n_seq": 2}
SPLITS = ["cpu,ANY", "cpu:0,ANY:0,cpu", "ANY,reference"]  # ANY: the backend that is tested


def opened(path, **more) -> Session:
    return Session(path, **(SETTINGS | more))


@pytest.fixture(scope="module")
def adapter(small_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("lora") / "adapter.gguf"
    with Session(small_model) as session:
        shapes = {name: info.shape for name, info in session.file.tensors.items()}
    tensors = {}
    for seed, name in enumerate(("token_embd.weight", "blk.0.attn_q.weight", "blk.4.ffn_down.weight")):
        tensors |= gguf_pair(name, 2, seed, shapes)
    write_gguf_adapter(path, tensors)
    return path


def answers(session: Session) -> list[list[int]]:
    """Sampled and searched, several at once, past the end of the context, with and without an adapter."""
    requests = [
        {"temperature": 0.0, "max_tokens": 24}, {"n": 2, "seed": 3, "max_tokens": 12}, {"beams": 2, "max_tokens": 8},
        {"temperature": 0.0, "max_tokens": 60, "shift": True}, {"temperature": 0.0, "adapters": (("adapter", 1.0),)},
    ]  # fmt: skip
    return [each.tokens for request in requests for each in session.answers(PROMPT, **({"max_tokens": 12} | request))]


@pytest.fixture(scope="module")
def expected(small_model, adapter, backend_name):
    with opened(small_model, backend=backend_name, lora=[(str(adapter), 0.0)]) as session:
        found = answers(session)
        assert found[-1] != found[0][:12]  # the adapter does something
        yield found, session.logits(session.tokenize(PROMPT)), session.embed(PROMPT)


@pytest.mark.parametrize("device", SPLITS)
def test_answers_are_those_of_one_device(stories260k, adapter, expected, backend_name, device):
    tokens, logits, vector = expected
    device, split = device.replace("ANY", backend_name), "1,3,1" if device.count(",") == 2 else ""
    with opened(stories260k, lora=[(str(adapter), 0.0)], device=device, split=split) as session:
        assert answers(session) == tokens
        found, embedded = session.logits(session.tokenize(PROMPT)), session.embed(PROMPT)
        if len({each.split(":")[0] for each in device.split(",")}) > 1:
            assert np.allclose(found, logits, atol=2e-3)
            assert np.allclose(embedded, vector, atol=1e-4)
        else:
            assert np.array_equal(found, logits)
            assert np.array_equal(embedded, vector)


def test_drafts_sessions_and_reopening(stories260k, expected, backend_name, tmp_path, monkeypatch):
    free = SimpleNamespace(per_row=0.0, seconds=lambda n: 1e9)  # guesses pay, however fast the machine is
    lengths = speculation.draft_lengths
    monkeypatch.setattr(engine, "draft_lengths", lambda groups, cost, *rest: lengths(groups, free, *rest))
    whole = expected[0][0]
    with opened(stories260k, device=f"{backend_name},reference", draft_model=str(stories260k)) as session:
        tokens = session.tokenize(PROMPT)
        first = session.generate(tokens, temperature=0.0, max_tokens=24)
        assert first.tokens == whole
        assert first.timings.n_accepted > 0
        n = session.save_prefix(tmp_path / "saved", tokens + whole)
        assert n >= len(tokens)
        session.reopen()
        assert session.generate(tokens, temperature=0.0, max_tokens=24).tokens == whole
    # What several devices saved, one reads, and the other way round.
    for how in ({}, {"device": f"cpu,{backend_name}"}):
        with opened(stories260k, **how) as session:
            assert len(session.load_prefix(tmp_path / "saved")) == n
            again = session.generate(tokens, temperature=0.0, max_tokens=24)
            assert again.tokens == whole
            assert again.timings.n_cached == len(tokens) - 1
            session.save_prefix(tmp_path / "again", tokens + whole)
        with opened(stories260k) as session:
            assert len(session.load_prefix(tmp_path / "again")) == n


def test_the_service_runs_on_several_devices(small_model, expected, backend_name):
    with opened(small_model, device=f"cpu,{backend_name}", split="1,4") as session:
        jobs = [session.service.submit(session.request(PROMPT, temperature=0.0, max_tokens=24)) for _ in range(4)]
        for job in jobs:
            found = [event.result.tokens for event in job if hasattr(event, "result")]
            assert found == [expected[0][0]]
        assert session.device.kernels()["device 0"].startswith("cpu:0 (layers 0-0")


def test_random_requests_that_lack_room_are_answered_as_on_one_device(stories260k, backend_name):
    """Shared beginnings, several answers, priorities, preemption, shifts: blocks for about two of eight requests."""
    r = random.Random(2)
    requests = []
    for _ in range(8):
        prompt = [1, *(r.choice([5, 9, 260]) for _ in range(r.randint(1, 30)))]
        requests.append({
            "prompt": prompt, "max_tokens": r.randint(1, 40), "n": r.choice([1, 1, 2]), "seed": r.randint(0, 9),
            "temperature": r.choice([0.0, 0.9]), "priority": r.randint(0, 2), "shift": r.random() < 0.5,
        })  # fmt: skip

    def answers(**how):
        with opened(stories260k, ctx_size=48, n_seq=4, kv_memory=205_000, **how) as session:
            jobs = [Job(session.request(**each)) for each in requests]
            for job in jobs:
                session.engine.submit(job)
            while session.engine.step():
                pass
            finished = [sorted((e.choice, e.result.tokens) for e in j.drain() if isinstance(e, Finished)) for j in jobs]
            return finished, session.engine.counters.n_preempted

    one, two = answers(backend=backend_name), answers(device=f"cpu,{backend_name}", split="3,2")
    assert one == two
    assert all(len(found) == each["n"] for found, each in zip(one[0], requests, strict=True))
    assert one[1] > 0  # some were preempted


def test_each_device_has_its_share_of_everything(small_model):
    with opened(small_model) as one, opened(small_model, device="cpu,cpu") as two:
        assert two.kv_bytes == one.kv_bytes
        held = [sum(w.parts[i].n_bytes for w in two.weights.values() if i in w.parts) for i in (0, 1)]
        assert min(held) > 0.3 * sum(held)
        assert two.footprint.weights == sum(held)
        assert two.device.memory().free <= one.device.memory().free * 1.2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"device": "cpu,"}, "not the name of a backend"),
        ({"device": "cpu:x"}, "not the name of a backend"),
        ({"device": "cpu,gpu"}, "no backend named 'gpu'"),
        ({"device": "cpu,cpu:7"}, "no device 7"),
        ({"device": "cpu,cpu", "split": "1"}, "how 2 devices share"),
        ({"device": "cpu,cpu", "split": "1,0"}, "how 2 devices share"),
        ({"device": "cpu,cpu", "split": "1,x"}, "how 2 devices share"),
        ({"device": ",".join(["cpu"] * 6)}, "6 devices cannot share 5 layers"),
        ({"device": ",".join(["cpu"] * 65)}, "at most 64"),
    ],
)
def test_what_cannot_be_is_said(stories260k, settings, text):
    with pytest.raises(LlamaKitError, match=text), opened(stories260k, **settings) as session:
        session.device  # noqa: B018


def test_the_command_line_names_devices(small_model):
    """--device and --split of the commands, and of `serve`."""
    asked = ["generate", "-m", small_model, "-p", PROMPT, "-n", "8", "--temperature", "0", "-t", "1", "-v"]
    one, two = (
        CliRunner().invoke(llamakit, [*map(str, asked), *more])
        for more in ([], ["--device", "cpu,cpu", "--split", "2,1"])
    )
    assert one.exit_code == two.exit_code == 0
    assert one.stdout == two.stdout
    assert "device 1 cpu:0 (layers" in two.stderr
    values = {"device": "cpu,reference", "split": "1,2", "model": "m.gguf"}
    assert settings_from(values) == values


def test_what_the_host_holds_is_not_read_a_second_time(stories260k):
    """When another device of several is lost, its weights alone are loaded again."""
    with opened(stories260k, device="cpu,reference") as session:
        before = session.generate(PROMPT, max_tokens=8, temperature=0.0).tokens
        held = {name: dict(weight.parts) for name, weight in session.weights.items()}
        session.reopen()
        for name, weight in session.weights.items():
            for i, part in weight.parts.items():
                assert (part is held[name][i]) is (i == 0), (name, i)
        assert session.generate(PROMPT, max_tokens=8, temperature=0.0).tokens == before


def test_training_is_refused(small_model):
    with opened(small_model, device="cpu,cpu") as session:
        with pytest.raises(UsageError, match="training runs on one device"):
            session.trainer(data="x.txt", out="y.gguf")
        with pytest.raises(UsageError, match="training runs on one device"):
            session.device.state((2,))


def test_a_node_that_a_device_does_not_know_is_named(small_model):
    with opened(small_model, device="cpu,cpu") as session:
        member = session.device.members[1].device
        member.supports = lambda node: node.name != "output"
        with pytest.raises(BackendError, match="cpu:0 cannot run node output"):
            session.engine  # noqa: B018


def test_stages_are_graphs_of_their_own(small_model):
    """Layers of the cache count from 0 in each; what crosses is a float input; nothing is lost or done twice."""
    with Session(small_model) as session:
        graph = session.model.build(GraphSizes(rows=4, out_rows=2, seqs=2, blocks_per_seq=3), adapters=True)
        n_bytes = {name: info.n_bytes for name, info in session.file.tensors.items()}
    placement = place(graph, [1, 2], n_bytes)
    assert placement.layers == tuple(sorted(placement.layers))
    assert set(placement.layers) == {0, 1}
    first, second = split(graph, placement)
    assert [n.name for stage in (first, second) for n in stage.graph.nodes] == [n.name for n in graph.nodes]
    assert len(second.received) == 1
    [crossing] = [second.graph.inputs[name] for name in second.received]
    assert crossing in first.graph.outputs.values()
    for stage in (first, second):
        layers = [n.attrs.layer for n in stage.graph.nodes if n.op == "attention"]
        assert layers == list(range(len(layers)))
        assert all(node.device == stage.device for node in stage.graph.nodes)
    assert set(first.graph.inputs) | set(second.graph.inputs) - set(second.received) == set(graph.inputs)
    with pytest.raises(GraphError, match="none of the model's"):
        split(graph, place(session_less(graph), [1.0], n_bytes))


def session_less(graph):
    """The graph without its last node."""
    return graph.with_nodes(graph.nodes[:-1])


def member(kind: str, free: int, *, low_vram: bool = False) -> Member:
    device = SimpleNamespace(info=DeviceInfo(kind, kind), memory=lambda: Memory(1 << 40, free), cache_on_host=low_vram)
    return Member(kind, None, device)


@pytest.mark.parametrize(
    ("members", "share", "expected"),
    [
        ([member("cpu", 1000), member("gpu", 500)], (0.5, 0.5), 500 / 0.5 - 400),
        ([member("cpu", 1000), member("gpu", 500, low_vram=True)], (0.5, 0.5), 1000 - 0.5 * 400),
        ([member("gpu", 500, low_vram=True), member("gpu", 600, low_vram=True)], (0.5, 0.5), 800),  # the system's
        ([member("gpu", 500, low_vram=True), member("gpu", 300)], (0.5, 0.5), 300 / 0.5 - 400),
        ([member("cpu", 1000), member("gpu", 150, low_vram=True)], (0.5, 0.5), 150 / 0.5 - 400),
    ],
)
def test_the_room_for_keys_and_values_is_where_they_lie(monkeypatch, members, share, expected):
    monkeypatch.setattr("llamakit.system.free_memory", lambda: 800)
    assert SplitDevice(members, SimpleNamespace(share=share)).cache_room(400) == expected

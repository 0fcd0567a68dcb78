"""Layers on GPUs by the options of 2023: which devices get how many, and what is said of it."""

from __future__ import annotations

import pytest

from llamakit import Session
from llamakit.backend import Availability, Backend, DeviceInfo
from llamakit.config import Config
from llamakit.devices import smallest_graph
from llamakit.devices.offload import Offload, layers_that_fit, offload
from llamakit.errors import BackendError, UsageError
from llamakit.graph.errors import GraphError
from llamakit.hookspecs import hookimpl
from llamakit.options import OptionField
from llamakit.passes.placement import layer_bytes, place
from llamakit.registry import Registry

TWO = Availability(available=True, reason="", devices=(DeviceInfo("a", "gpu"), DeviceInfo("b", "gpu")))


@pytest.mark.parametrize(
    ("n", "main", "split", "device", "layers"),
    [
        (99, 0, "", "cuda:0", ()), (5, 1, "", "cuda:1", ()), (0, 0, "", "cpu", ()), (2, 0, "", "cpu,cuda:0", (3, 2)),
        (5, 0, "1,1", "cuda:0,cuda:1", (2, 3)), (4, 0, "3/1", "cpu,cuda:0,cuda:1", (1, 3, 1)),
        (4, 0, "0,1", "cpu,cuda:1", (1, 4)), (3, 1, "1", "cpu,cuda:0", (2, 3)), (1, 0, "1,1", "cpu,cuda:1", (4, 1)),
    ],
)  # fmt: skip
def test_the_last_layers_go_to_the_gpus(n, main, split, device, layers):
    found = offload("cuda", TWO, 5, n, main, split)
    assert (found.device, found.layers) == (device, layers)
    assert bool(found.told) == bool(layers)


@pytest.mark.parametrize(
    ("main", "split", "kind"),
    [(2, "", UsageError), (0, "1,1,1", BackendError), (0, "x", UsageError),
     (0, "0,0", UsageError), (0, "-1,2", UsageError)],
)  # fmt: skip
def test_what_cannot_be_is_refused(main, split, kind):
    with pytest.raises(kind):
        offload("cuda", TWO, 5, 5, main, split)


def test_as_many_layers_as_fit(small_model):
    with Session(small_model, backend="cpu") as session:
        graph, sizes = smallest_graph(session.model), {n: info.n_bytes for n, info in session.file.tensors.items()}
        layers = layer_bytes(graph, sizes)
        whole = sum(layers)
        assert layers_that_fit(graph, sizes, 0, 0, 2 * whole) == len(layers)
        assert layers_that_fit(graph, sizes, 0, 0, 0) == 0
        assert layers_that_fit(graph, sizes, 0, 1000, int((layers[-1] + 1001) / 0.9)) == 1
        assert layers_that_fit(graph, sizes, whole, 0, 2 * whole) == 1
        exact = place(graph, [1.0, 1.0], sizes, (4, len(layers) - 4))
        assert exact.layers.count(0) == 4
        with pytest.raises(GraphError, match="layers"):
            place(graph, [1.0, 1.0], sizes, (4, 9))


class CardBackend(Backend):
    """The cpu's device, under another name, as small as it is told to be."""

    name = "card"
    free = 1 << 40

    @classmethod
    def probe(cls) -> Availability:
        return Availability(available=True, reason="", devices=TWO.devices)

    def open(self, index: int = 0):
        from llamakit.backend import Memory

        device = Registry.discover().backend("cpu")().open()
        device.memory = lambda: Memory(1 << 40, type(self).free)
        return device


@hookimpl
def llamakit_backends():
    return [CardBackend]


@pytest.fixture
def registry(monkeypatch):
    import sys
    from importlib.metadata import EntryPoint, entry_points

    monkeypatch.setitem(sys.modules, "a_card", sys.modules[__name__])
    entry = EntryPoint(name="backend.card", value="a_card", group="llamakit")
    return Registry([*entry_points(group="llamakit"), entry])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Offload("card:0")), ({"gpu_layers": 0}, Offload("cpu")),
        ({"gpu_layers": 99, "main_gpu": 1}, Offload("card:1")),
        ({"gpu_layers": 2}, "two"),
        ({"backend": "cpu"}, Offload("")), ({"backend": "cpu", "gpu_layers": 0}, Offload("")),
        ({"device": "cpu,cpu", "gpu_layers": 3}, Offload("")),
    ],
)  # fmt: skip
def test_a_session_answers_the_same_wherever_its_layers_run(small_model, registry, settings, expected):
    given = {"backend": "card", "ctx_size": 64} | settings
    with Session(small_model, registry=registry, **given) as session, Session(small_model, backend="cpu") as cpu:
        n = len(cpu.model.cache_layers())
        if expected == "two":
            expected = Offload("cpu,card:0", (n - 2, 2), f"{n} layers: {n - 2} on cpu, 2 on card:0")
        assert session.offload == expected
        assert session.generate("Once", max_tokens=8, temperature=0).tokens == (
            cpu.generate("Once", max_tokens=8, temperature=0).tokens
        )


def test_a_small_gpu_gets_what_fits_and_that_is_told(small_model, registry, monkeypatch):
    with Session(small_model, backend="cpu", ctx_size=64) as session:
        monkeypatch.setattr(CardBackend, "free", session.footprint.program + session.footprint.weights // 2)
    with Session(small_model, registry=registry, backend="card", ctx_size=64) as session:
        assert session.offload.device == "cpu,card:0"
        assert "on card:0" in session.offload.told
        assert session.generate("Once", max_tokens=4, temperature=0).tokens


def test_without_a_gpu_it_is_said_that_none_is_used(small_model):
    with Session(small_model, backend="cpu", gpu_layers=5) as session:
        assert "no GPU is used" in session.offload.told


def test_no_layers_on_a_gpu_is_no_other_backend_than_was_asked_for(small_model):
    with Session(small_model, backend="reference", gpu_layers=0, backend_options={"float64": True}) as session:
        assert session.backend[0].name == "reference"


def test_options_go_to_the_backend_that_they_are_of(small_model, registry):
    options = {"card": {"lanes": 64}, "cpu": {"isa": "generic"}, "reference": {"float64": True}}
    for device in ("", "cpu,reference"):
        with Session(small_model, backend="cpu", device=device, backend_options=options) as session:
            assert session.backend[0].options.isa == "generic"
    refused = pytest.raises(UsageError, match=r"backend\.card: no option 'lanes'")
    with Session(small_model, registry=registry, backend="card", backend_options=options) as session, refused:
        _ = session.backend


def test_settings_of_backends_keep_their_backend():
    lanes = OptionField(name="lanes", kind="int", default=0)
    config = Config({f"backend.{name}.lanes": lanes for name in ("cuda", "opencl")})
    config.set("backend.cuda.lanes", 64, "test")
    assert config.backend_options() == {"cuda": {"lanes": 64}}

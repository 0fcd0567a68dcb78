"""Layers on GPUs by the options of 2023: which devices get how many, and what is said of it."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from llamakit import Session
from llamakit.backend import Availability, Backend, DeviceInfo
from llamakit.cli import llamakit
from llamakit.config import Config
from llamakit.devices import parse_devices, smallest_graph
from llamakit.devices.offload import Offload, layers_that_fit, offload
from llamakit.errors import BackendError, UsageError
from llamakit.graph.errors import GraphError
from llamakit.hookspecs import hookimpl
from llamakit.options import OptionField
from llamakit.passes.placement import layer_bytes, place
from llamakit.pool import device_memory
from llamakit.registry import Registry
from llamakit.training import Trainer

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
    factor = 1  # of a tensor's bytes on the card

    @classmethod
    def probe(cls) -> Availability:
        return Availability(available=True, reason="", devices=TWO.devices)

    def open(self, index: int = 0):
        from llamakit.backend import Memory

        device = Registry.discover().backend("cpu")().open()
        device.memory = lambda: Memory(1 << 40, type(self).free)
        device.weight_size = lambda source: type(self).factor * source.n_bytes
        return device


@hookimpl
def llamakit_backends():
    return [CardBackend]


@pytest.fixture
def registry(monkeypatch):
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
        ({"device": "cpu,cpu"}, Offload("")),
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
        fitting = session.offload.layers
    monkeypatch.setattr(CardBackend, "factor", 2)
    with Session(small_model, registry=registry, backend="card", ctx_size=64) as session:
        assert session.offload.layers[1:] < fitting[1:]  # tensors are counted as they lie on the device


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


def test_a_gpu_onto_which_no_layer_fits_is_left_alone(small_model, registry, monkeypatch):
    monkeypatch.setattr(CardBackend, "free", 1)
    with Session(small_model, registry=registry, backend="card", ctx_size=64) as session:
        assert session.backend[0].name == "cpu"
        assert session.offload.told == "no layer fits onto card:0: all run on the CPU"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"gpu_layers": 5}, "all run on the CPU (backend cpu): -ngl 5 does nothing without a GPU"),
        ({"main_gpu": 3, "tensor_split": "1,2"}, "--main-gpu 3, --tensor-split 1,2 do nothing"),
        ({"split": "1,2"}, "--split 1,2 does nothing without several devices (--device)"),
        ({"split": "1", "device": "cpu"}, "--split 1 does nothing without several devices (--device)"),
        ({"main_gpu": 3, "device": "cpu"}, "--device cpu says where layers run: --main-gpu 3 does nothing"),
        ({"backend": "card", "gpu_layers": 9, "split": "1,2"}, "--split 1,2 does nothing"),
    ],
)
def test_settings_that_do_nothing_are_named(small_model, registry, settings, told):
    given = {"backend": "cpu"} | settings
    with Session(small_model, registry=registry, **given) as session:
        assert told in session.offload.told


@pytest.mark.parametrize(
    "settings",
    [{}, {"gpu_layers": 0}, {"device": "cpu,cpu", "split": "1,2"}, {"backend": "card", "main_gpu": 1},
     {"backend": "card", "tensor_split": "0,1", "gpu_layers": 9}],
)  # fmt: skip
def test_nothing_is_said_of_settings_that_do_something(small_model, registry, settings):
    with Session(small_model, registry=registry, **{"backend": "cpu", "ctx_size": 64} | settings) as session:
        assert session.offload.told == ""


@pytest.mark.parametrize(
    ("settings", "opened"),
    [({}, ["cpu:0", "card:0"]), ({"gpu_layers": 0}, ["cpu:0"]), ({"main_gpu": 1}, ["cpu:0", "card:1"]),
     ({"tensor_split": "1,1"}, ["cpu:0", "card:0", "card:1"])],
)  # fmt: skip
def test_room_is_what_the_devices_have_that_layers_may_run_on(registry, monkeypatch, settings, opened):
    """With no layer on GPUs, none of them is even opened."""
    found, cpu = [], registry.backend("cpu")
    for cls in (CardBackend, cpu):
        monkeypatch.setattr(cls, "open", _noting(cls, found))
    device_memory(registry, {"backend": "card"} | settings)
    assert found == opened


def _noting(cls, found):
    original = cls.open

    def open(self, index=0):
        if cls is CardBackend or sys._getframe(1).f_code.co_name != "open":  # a card opens the cpu's device
            found.append(f"{cls.name}:{index}")
        return original(self, index)

    return open


class TestTraining:
    @pytest.fixture
    def data(self, tmp_path):
        path = tmp_path / "data.jsonl"
        path.write_text("".join('{"text": "Once upon a time there was a cat."}\n' for _ in range(4)))
        return path

    @pytest.fixture
    def small_card(self, small_model, monkeypatch):
        with Session(small_model, backend="cpu") as session:
            monkeypatch.setattr(CardBackend, "free", session.footprint.program + session.footprint.weights // 2)

    @pytest.mark.usefixtures("small_card")
    @pytest.mark.parametrize("free", [1, None])
    @pytest.mark.parametrize(("backend", "device"), [("auto", "cpu"), ("card", "card:0")])
    def test_a_model_that_a_gpu_cannot_hold_is_trained_on_one_device(
        self, small_model, registry, monkeypatch, tmp_path, data, backend, device, free
    ):
        monkeypatch.setattr(CardBackend, "free", free or CardBackend.free)
        monkeypatch.setattr(Registry, "discover", lambda: registry)
        choose = registry.choose_backend
        monkeypatch.setattr(registry, "choose_backend", lambda name: choose("card" if name == "auto" else name))
        out = tmp_path / "run"
        result = CliRunner().invoke(
            llamakit,
            ["finetune", "-m", str(small_model), "--data", str(data), "--out", str(out), "--steps", "1", "-c", "32",
             *(() if backend == "auto" else ("--backend", backend))],
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        told = " ".join(result.stderr.split())
        assert f"training runs on one device, {device}: card:0 may not hold all of the model" in told
        assert ("--backend card tries it" in told) == (backend == "auto")
        trainer = Trainer.resume(out, steps=2)
        with trainer.session:
            assert len(parse_devices(trainer.session.settings.device)) == 1

    @pytest.mark.usefixtures("small_card")
    def test_several_devices_are_refused_at_once(self, small_model, registry, tmp_path, data):
        with Session(small_model, registry=registry, backend="card", ctx_size=64) as session:
            assert session.offload.layers
            with pytest.raises(UsageError, match="training runs on one device, not on cpu,card:0") as error:
                session.trainer(data=[str(data)], out=str(tmp_path / "run"))
            assert 'device="cpu"' in error.value.hint

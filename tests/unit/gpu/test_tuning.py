"""Shapes of kernels: which there are by family, that the quickest is found once and kept, and when none is measured."""

from __future__ import annotations

import json

import pytest

from llamakit.backend import DeviceInfo
from llamakit.errors import BackendError, DeviceLostError, OutOfMemoryError
from llamakit.gpu import tuning
from llamakit.gpu.compiled import CompiledKernels
from llamakit.gpu.source import Kernels
from llamakit.gpu.tuning import FAMILIES, Shape, shapes_of, tune
from llamakit.registry import Registry
from llamakit.testing.recording import RecordingDriver

SHAPES = (Shape(64, 64), Shape(32, 64), Shape(128, 64))


@pytest.fixture
def times(monkeypatch):
    """Seconds that shapes take, by lanes; those that were measured are in `times.asked`."""

    class Times(dict):
        asked: list[int] = []

    found = Times({64: 1.0, 32: 1.0, 128: 1.0})
    found.asked = []

    def measure(kernels, shape):
        found.asked.append(shape.lanes)
        if isinstance(found[shape.lanes], Exception):
            raise found[shape.lanes]
        return found[shape.lanes]

    monkeypatch.setattr(tuning, "measure", measure)
    return found


def tuned(tmp_path, **more):
    driver = RecordingDriver()
    driver.compiled, driver.shapes = CompiledKernels(tmp_path), SHAPES
    for name, value in more.items():
        setattr(driver, name, value)
    kernels = Kernels(driver)
    tune(kernels)
    tune(kernels)
    assert kernels.traits is driver.traits
    return driver.traits.lanes, driver.traits.items


@pytest.mark.parametrize("kind", ["cpu", "gpu", "accelerator"])
def test_families(kind):
    info = DeviceInfo("any", kind)
    assert shapes_of(info, 1024) == FAMILIES["cpu" if kind == "cpu" else "gpu"]
    small = shapes_of(info, 48)
    assert len(set(small)) == len(small)
    assert all(max(shape) <= 32 for shape in small)


def test_the_quickest_is_taken_and_kept(tmp_path, times):
    times |= {32: 0.7, 128: 0.6}
    assert tuned(tmp_path) == (128, 64)
    assert times.asked == [64, 32, 128]
    assert tuned(tmp_path) == (128, 64)
    assert times.asked == [64, 32, 128]
    other = DeviceInfo("another", "gpu")
    assert tuned(tmp_path, info=other) == (128, 64)
    assert len(times.asked) == 6


def test_noise_decides_nothing(tmp_path, times):
    times |= {32: 0.96, 128: 0.97}
    assert tuned(tmp_path) == (64, 64)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"[7, 7]", b'{"a": 1, "b": 2}', b"[[1], [2]]"])
def test_what_is_damaged_is_measured_again(tmp_path, times, data):
    times[128] = 0.5
    assert tuned(tmp_path) == (128, 64)
    (file,) = tmp_path.iterdir()
    CompiledKernels(tmp_path).put(file.name, data)
    assert tuned(tmp_path) == (128, 64)
    file.write_bytes(file.read_bytes()[:-1])
    assert tuned(tmp_path) == (128, 64)
    assert len(times.asked) == 9
    assert json.loads(CompiledKernels(tmp_path).get(file.name)) == [128, 64]


def test_a_shape_that_is_not_possible_is_not_taken(tmp_path, times):
    times |= {32: BackendError("groups are too large"), 128: 0.5}
    assert tuned(tmp_path) == (128, 64)
    assert len(list(tmp_path.iterdir())) == 1


def test_where_nothing_can_be_measured_all_is_as_usual(tmp_path, times):
    times |= {32: 0.1, 128: OutOfMemoryError("none left")}
    usual = RecordingDriver().traits
    assert tuned(tmp_path) == (usual.lanes, usual.items)
    assert not list(tmp_path.iterdir())
    times[128] = DeviceLostError("gone")
    with pytest.raises(DeviceLostError):
        tuned(tmp_path)
    asked = len(times.asked)
    assert tuned(tmp_path, shapes=()) == (usual.lanes, usual.items)
    assert tuned(tmp_path, shapes=SHAPES[:1]) == (usual.lanes, usual.items)
    assert len(times.asked) == asked


def test_a_device_is_measured_when_it_first_loads(tmp_path, monkeypatch):
    pytest.importorskip("pyopencl", reason="needs pyopencl")
    backend = Registry.discover().backend("opencl")
    if not backend.probe().available:
        pytest.skip(backend.probe().reason)
    monkeypatch.setattr(tuning, "SIDE", 256)

    def loaded(**options):
        device = backend(backend.Options(**options)).open()
        device.driver.compiled = CompiledKernels(tmp_path)
        assert not device.driver.tuned
        device.load(tuning.zeros(), frozenset())
        return device

    device = loaded()
    if device.info.kind == "cpu":
        assert device.driver.shapes == FAMILIES["cpu"]
    assert device.driver.tuned
    assert Shape(device.driver.traits.lanes, device.driver.traits.items) in device.driver.shapes
    assert device.kernel_store.traits == device.driver.traits
    measured = []
    monkeypatch.setattr(tuning, "measure", lambda *args: measured.append(args))
    assert loaded().driver.traits == device.driver.traits
    for options in ({"tune": False}, {"lanes": 1}):
        assert loaded(**options).driver.traits.items == device.driver.shapes[0].items
    assert not measured

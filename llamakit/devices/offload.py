"""Which layers of a model run on GPUs, by the names of 2023: the last ones do, those before them on the CPU.

`gpu_layers` says how many; if nothing is said, as many as fit. `tensor_split` shares them among several GPUs, else
`main_gpu` has them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llamakit.devices import parse_devices, parse_shares
from llamakit.errors import BackendError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llamakit.backend import Availability, Backend
    from llamakit.graph.graph import Graph
    from llamakit.session import Settings

OFFLOADING = ("cuda", "opencl")  # backends that layers are given to, even where the device is none of a GPU
FIT = 0.9  # of a GPU's free memory that is counted on


class Offload(msgspec.Struct, frozen=True):
    """`device`: as the setting of that name; `layers`: how many each of several has, () for one; `told`: for people."""

    device: str
    layers: tuple[int, ...] = ()
    told: str = ""


def is_gpu(cls: type[Backend]) -> bool:
    """Whether a backend is one that layers are given to: ours for GPUs, and any other's that has one."""
    return cls.name in OFFLOADING or any(device.kind == "gpu" for device in cls.probe().devices)


def devices_for(cls: type[Backend], gpu_layers: int, main_gpu: int, tensor_split: str) -> str:
    """The devices, as the setting of that name, that layers may be given to by a backend of GPUs."""
    if gpu_layers == 0:
        return "cpu"
    gpus = _gpus(cls.name, len(cls.probe().devices), main_gpu, tensor_split)
    return ",".join(["cpu", *(f"{cls.name}:{number}" for number, _ in gpus)])


def without_effect(settings: Settings, backend: str, gpu: bool) -> str:
    """Which settings of placement do nothing, and why, for people; "" if all do something. `gpu`: one is used."""
    found, device = [], settings.device
    given = {
        "-ngl": settings.gpu_layers if settings.gpu_layers > 0 else "", "--main-gpu": settings.main_gpu or "",
        "--tensor-split": settings.tensor_split.strip(),
    }  # fmt: skip
    if names := [f"{name} {value}" for name, value in given.items() if value]:
        does = ", ".join(names) + (" does nothing" if len(names) == 1 else " do nothing")
        if device:
            found.append(f"--device {device} says where layers run: {does}")
        elif not gpu:
            found.append(f"all run on the CPU (backend {backend}): {does} without a GPU")
    if settings.split.strip() and (not device or len(parse_devices(device)) == 1):
        found.append(f"--split {settings.split} does nothing without several devices (--device)")
    return "; ".join(found)


def offload(name: str, probe: Availability, n_layer: int, n: int, main_gpu: int, tensor_split: str) -> Offload:
    """The last `n` of `n_layer` layers on the GPUs of backend `name`, the others on the CPU."""
    if not 0 <= main_gpu < len(probe.devices):
        raise UsageError(
            f"--main-gpu {main_gpu}: backend {name} has {len(probe.devices)} devices, counted from 0", param="main_gpu"
        )
    n = min(n, n_layer)
    gpus = _gpus(name, len(probe.devices), main_gpu, tensor_split)
    shared = _share(n, [share for _, share in gpus])
    parts = [("cpu", n_layer - n), *((f"{name}:{number}", k) for (number, _), k in zip(gpus, shared, strict=True))]
    used = [(device, k) for device, k in parts if k]
    told = ", ".join(f"{k} on {device}" for device, k in used)
    if len(used) == 1:
        return Offload(used[0][0])
    return Offload(",".join(device for device, _ in used), tuple(k for _, k in used), f"{n_layer} layers: {told}")


def _gpus(name: str, n: int, main_gpu: int, tensor_split: str) -> list[tuple[int, float]]:
    """(number, share) of the GPUs that take part."""
    if not tensor_split.strip():
        return [(main_gpu, 1.0)]
    text = tensor_split.replace("/", ",")
    shares = parse_shares(text, len(text.split(",")), allow_zero=True)
    if shares is None or not sum(shares):
        raise UsageError(f"--tensor-split {tensor_split}: one share at least must be above 0", param="tensor_split")
    if len(shares) > n:
        raise BackendError(
            f"--tensor-split {tensor_split} is for {len(shares)} devices", found=f"backend {name} has {n}",
            param="tensor_split",
        )  # fmt: skip
    return [(number, share) for number, share in enumerate(shares) if share > 0]


def _share(n: int, shares: Sequence[float]) -> list[int]:
    """`n` layers in these proportions, in order."""
    total, done, found = sum(shares), 0.0, []
    for share in shares:
        found.append(round(n * (done + share) / total) - round(n * done / total))
        done += share
    return found


def layers_that_fit(graph: Graph, n_bytes: Mapping[str, int], kv_per_layer: float, program: int, free: int) -> int:
    """How many of the last layers fit into `free` bytes, each with its keys and values, beside a program of its own."""
    from llamakit.passes.placement import layer_bytes

    left, n = free * FIT - program, 0
    for size in reversed(layer_bytes(graph, n_bytes)):
        left -= size + kv_per_layer
        if left < 0:
            break
        n += 1
    return n

"""The devices that a session uses: one, or several that share the layers of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llamakit.errors import BackendError, UsageError
from llamakit.options import build_options, near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.backend import Backend
    from llamakit.devices.split import Member, SplitDevice
    from llamakit.gguf import GGUFFile
    from llamakit.graph.graph import Graph
    from llamakit.models import LoadedModel
    from llamakit.registry import Registry

MOST_DEVICES = 64


def parse_devices(text: str) -> list[tuple[str, int]]:
    """(backend, number) of "cpu:0, reference"; the number is 0 where it is not given."""
    found = []
    for each in text.split(","):
        name, colon, number = each.strip().partition(":")
        if not name or (colon and not number.isdecimal()):
            raise UsageError(
                f"device {each.strip()!r} is not the name of a backend, with or without a number",
                hint="such as --device cpu, or cuda:0,cuda:1", param="device",
            )  # fmt: skip
        found.append((name, int(number or 0)))
    if len(found) > MOST_DEVICES:
        raise UsageError(f"{len(found)} devices are named; at most {MOST_DEVICES} can share a model", param="device")
    return found


def parse_shares(text: str, n: int, *, allow_zero: bool = False) -> list[float] | None:
    """A share for each of `n` devices, of "3,1"; None if there are none. With `allow_zero` some may be 0."""
    if not text.strip():
        return None
    try:
        shares = [float(each) for each in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != n or not all(0 < share + allow_zero < float("inf") and share >= 0 for share in shares):
        raise UsageError(
            f"split {text!r} does not say how {n} devices share the model", found=f"{n} numbers above 0 are needed",
            hint="such as --split 3,1", param="split",
        )  # fmt: skip
    return shares


def open_members(
    registry: Registry, text: str, options: Mapping[str, object] | None = None, threads: int | None = None
) -> list[Member]:
    """Open the devices that `text` names, in order. Options are those of `configured`."""
    from llamakit.devices.split import Member

    made: dict[str, Backend] = {}
    members: list[Member] = []
    try:
        for name, number in parse_devices(text):
            if name not in made:
                made[name] = _backend(registry, name, options or {}, threads)
            _check_number(made[name], number)
            members.append(Member(f"{name}:{number}", made[name], made[name].open(number)))
    except BaseException:
        for member in members:
            member.device.close()
        raise
    return members


def share_model(
    members: list[Member], split: str, model: LoadedModel, file: GGUFFile, layers: Sequence[int] = ()
) -> SplitDevice:
    """The devices as one, with a placement for the model's layers; `layers`: how many each has, if that is settled."""
    from llamakit.devices.split import SplitDevice
    from llamakit.graph.errors import GraphError
    from llamakit.passes.placement import place

    shares = parse_shares(split, len(members)) or [max(each.device.memory().free, 1) for each in members]
    graph = smallest_graph(model)
    try:
        placement = place(graph, shares, {name: info.n_bytes for name, info in file.tensors.items()}, layers)
    except GraphError as error:
        raise UsageError(f"{file.path}: {error}", param="device") from None
    return SplitDevice(members, placement)


def smallest_graph(model: LoadedModel) -> Graph:
    """A graph with all of the model's nodes, which tells how layers can be shared out."""
    from llamakit.models import GraphSizes

    sizes = GraphSizes(rows=1, out_rows=1, seqs=1, blocks_per_seq=1)
    return model.build(sizes, outputs=("logits", "embeddings"))


def configured(cls: type[Backend], options: Mapping[str, object], threads: int | None) -> Backend:
    """A backend with its options: those under its name, as in {"cpu": {"isa": "avx2"}}, and those under no name."""
    values: dict[str, object] = {key: value for key, value in options.items() if not isinstance(value, Mapping)}
    own = options.get(cls.name)
    values |= dict(own) if isinstance(own, Mapping) else {}
    if threads is not None and "threads" in cls.Options.__struct_fields__:
        values.setdefault("threads", threads)
    return cls(build_options(cls.Options, values, where=f"backend.{cls.name}"))


def _backend(registry: Registry, name: str, options: Mapping[str, object], threads: int | None) -> Backend:
    known = registry.entry_names("backend")
    if name not in known:
        raise UsageError(f"no backend named {name!r} for a device", found=near(name, known), param="device")
    cls, _ = registry.choose_backend(name)
    known_here = {key: value for key, value in options.items() if key in (name, *cls.Options.__struct_fields__)}
    return configured(cls, known_here, threads)


def _check_number(backend: Backend, number: int) -> None:
    n = max(len(type(backend).probe().devices), 1)
    if number >= n:
        raise BackendError(f"backend {backend.name} has no device {number}", found=f"it has {n}, counted from 0")

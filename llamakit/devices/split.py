"""Several devices as one: each has a stage of the layers, with its weights and its parts of cache and adapters."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn
from weakref import WeakValueDictionary

import msgspec
import numpy as np

from llamakit import system
from llamakit.backend import AdapterTable, Device, DeviceInfo, Footprint, KVCache, KVSpec, Memory, Part
from llamakit.devices.relay import Link, Relay
from llamakit.errors import BackendError, UsageError
from llamakit.graph.graph import DType
from llamakit.passes.placement import split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from llamakit.backend import Adapter, Backend, Executable, Precision, State, TensorSource, Uses, Weight
    from llamakit.gguf import GGMLType
    from llamakit.graph.graph import Graph, Node
    from llamakit.passes.placement import Placement, Stage


class Member(NamedTuple):
    """A device of several; `label` names it to people."""

    label: str
    backend: Backend
    device: Device


class SplitWeight:
    """A tensor on the devices that need it."""

    def __init__(self, name: str, parts: dict[int, Weight]) -> None:
        self.name, self.parts = name, parts
        self.n_bytes = sum(part.n_bytes for part in parts.values())


class SplitKV(KVCache):
    """The cache of all layers: `parts` are those of the devices, with the numbers of their layers in the whole."""

    def __init__(self, spec: KVSpec, parts: dict[int, tuple[KVCache, list[int]]]) -> None:
        self.spec, self.parts = spec, parts

    def copy(self, source: Sequence[int], destination: Sequence[int]) -> None:
        """On all devices."""
        for part, _ in self.parts.values():
            part.copy(source, destination)

    def shift(self, source: Sequence[int], destination: Sequence[int], delta: int) -> None:
        """On all devices."""
        for part, _ in self.parts.values():
            part.shift(source, destination, delta)

    def export(self, cells: Sequence[int]) -> npt.NDArray[np.uint8]:
        """All layers, in the order of the whole."""
        found = {layers[0]: (part.export(cells), layers) for part, layers in self.parts.values()}
        width = max(data.shape[2] for data, _ in found.values())
        whole = np.zeros((len(self.spec.layers), len(cells), width), np.uint8)
        for data, layers in found.values():
            whole[layers, :, : data.shape[2]] = data
        return whole

    def restore(self, cells: Sequence[int], data: npt.NDArray[np.uint8]) -> None:
        """Each device its layers."""
        for part, layers in self.parts.values():
            width = part.export([]).shape[2]
            part.restore(cells, np.ascontiguousarray(data[layers, :, :width]))

    def close(self) -> None:
        """Close all parts."""
        for part, _ in self.parts.values():
            part.close()


class SplitAdapters(AdapterTable):
    """The same slots on all devices, each with the adapters of its own tensors."""

    def __init__(self, tables: dict[int, AdapterTable], targets: dict[int, set[str]], n_slot: int) -> None:
        self.tables, self.targets, self.n_slot = tables, targets, n_slot

    def set(self, slot: int, adapters: Mapping[str, Adapter]) -> None:
        """Fill the slot everywhere; what no device knows, the first one refuses."""
        known = set().union(*self.targets.values())
        for device, table in self.tables.items():
            mine = {n: a for n, a in adapters.items() if n in self.targets[device] or n not in known}
            table.set(slot, mine)

    def clear(self, slot: int) -> None:
        """Empty the slot everywhere."""
        for table in self.tables.values():
            table.clear(slot)


class SplitDevice(Device):
    """The devices `members`, which share one model's layers as `placement` says. Training needs a single one."""

    def __init__(self, members: Sequence[Member], placement: Placement) -> None:
        self.members, self.placement = list(members), placement
        self._on_host: WeakValueDictionary[tuple[int, str, Uses], Any] = WeakValueDictionary()
        kinds = {member.device.info.kind for member in members}
        memory, name = memory_of(members), " + ".join(member.label for member in members)
        self.info = DeviceInfo(name, kinds.pop() if len(kinds) == 1 else "mixed", memory.total, memory.free)

    def supports(self, node: Node) -> bool:
        """Whether the device that has the node knows it."""
        where = self.placement.nodes.get(node.name)
        return where is not None and self.members[where].device.supports(node)

    def precision(self, node: Node, weight_type: GGMLType | None) -> Precision:
        """That of the device that has the node."""
        return self.members[self.placement.nodes.get(node.name, 0)].device.precision(node, weight_type)

    def memory(self) -> Memory:
        """What may be used of all together when each takes its share: the fullest one decides."""
        found = []
        for pool in _pools(self.members):
            share = sum(self.placement.share[i] for i in pool)
            memory = self.members[pool[0]].device.memory()
            found.append(Memory(int(memory.total / share), int(memory.free / share)))
        return Memory(min(memory.total for memory in found), min(memory.free for memory in found))

    def cache_room(self, taken: int) -> int:
        """As for `memory`; what devices leave to the host counts there."""
        on_host, rooms, host = 0.0, [], (system.free_memory(), 0.0)
        for pool in _pools(self.members):
            share, device = sum(self.placement.share[i] for i in pool), self.members[pool[0]].device
            free = device.memory().free - int(taken * share)
            if free <= 0:
                return int(free / share)
            if device.info.kind == "cpu":
                host = (free, share)
            elif device.cache_on_host:
                on_host += share
            else:
                rooms.append(int(free / share))
        in_main_memory = on_host + host[1]
        return min([*rooms, *([int(host[0] / in_main_memory)] if in_main_memory else [])])

    def footprint(self, graph: Graph, sources: Mapping[str, TensorSource], kv: KVSpec | None = None) -> Footprint:
        """The sum of all devices'."""
        found = [
            self.members[stage.device].device.footprint(
                stage.graph, sources, None if kv is None else self._spec(kv, stage.device)
            )
            for stage in split(graph, self.placement)
        ]
        return Footprint(**{name: sum(getattr(f, name) for f in found) for name in ("weights", "states", "program")})

    def load(self, source: TensorSource, uses: Uses) -> SplitWeight:
        """On every device that uses it."""
        of_device: dict[int, set[Any]] = {}
        for use in uses:
            of_device.setdefault(self.placement.nodes[use[1]], set()).add(use)
        load = {i: frozenset(mine) for i, mine in sorted(of_device.items())}
        return SplitWeight(source.name, {i: self._load(i, source, mine) for i, mine in load.items()})

    def _load(self, i: int, source: TensorSource, uses: Uses) -> Weight:
        """On one device. What the host holds is not lost when another device is, so it is not read a second time."""
        held: Weight | None = self._on_host.get((i, source.name, uses))
        if held is not None:
            return held
        weight = self.members[i].device.load(source, uses)
        if self.members[i].device.info.kind == "cpu" and self.members[i].backend.name == "cpu":
            self._on_host[i, source.name, uses] = weight
        return weight

    def state(self, shape: tuple[int, ...], dtype: DType = DType.F32) -> State:
        """States belong to training, which several devices cannot do together."""
        refuse_training(self.info.name)

    def kv_size(self, spec: KVSpec) -> int:
        """The sum of all devices'."""
        return sum(self.members[i].device.kv_size(self._spec(spec, i)) for i in self._with_cache)

    def kv_cache(self, spec: KVSpec) -> SplitKV:
        """A cache on each device for its layers."""
        parts = {
            i: (self.members[i].device.kv_cache(self._spec(spec, i)), self.placement.cache_of(i))
            for i in self._with_cache
        }
        return SplitKV(spec, parts)

    def adapter_table(self, targets: Mapping[str, tuple[int, ...]], n_slot: int) -> SplitAdapters:
        """A table on each device for its tensors."""
        mine = {
            i: {name: shape for name, shape in targets.items() if i in self.placement.tensors.get(name, ())}
            for i in range(len(self.members))
        }
        tables = {i: self.members[i].device.adapter_table(mine[i], n_slot) for i in mine}
        return SplitAdapters(tables, {i: set(mine[i]) for i in mine}, n_slot)

    def compile(
        self, graph: Graph, weights: Mapping[str, Any], *, kv: Any = None, adapters: Any = None, states: Any = None
    ) -> Executable:
        """Stages that follow one another on devices of one backend are compiled by it together."""
        if graph.states or states:
            refuse_training(self.info.name)
        links = []
        for _, group in groupby(split(graph, self.placement), key=lambda each: id(self.members[each.device].backend)):
            stages = list(group)
            parts = [self._part(stage, weights, kv, adapters) for stage in stages]
            made = {name for stage in stages for name in stage.graph.outputs}
            inputs = {n: v for stage in stages for n, v in stage.graph.inputs.items() if n not in made}
            received = tuple(name for stage in stages for name in stage.received if name not in made)
            links.append(Link(self.members[stages[0].device].backend.compile(parts), inputs, received))
        return links[0].program if len(links) == 1 else Relay(links, graph.outputs)

    @property
    def in_file(self) -> bool:
        """If any of them does."""
        return any(member.device.in_file for member in self.members)

    def kernels(self) -> dict[str, str]:
        """Which layers each device has, and what it uses."""
        found = {}
        for i, member in enumerate(self.members):
            layers = [n for n, where in enumerate(self.placement.layers) if where == i]
            used = ", ".join(f"{key} {value}" for key, value in member.device.kernels().items())
            found[f"device {i}"] = f"{member.label} (layers {layers[0]}-{layers[-1]}{', ' + used if used else ''})"
        return found

    def reopen(self) -> None:
        """All of them: what the others held belongs to the same model."""
        for member in self.members:
            member.device.reopen()

    def close(self) -> None:
        """All of them."""
        for member in self.members:
            member.device.close()

    @property
    def _with_cache(self) -> list[int]:
        return sorted(set(self.placement.cache))

    def _spec(self, spec: KVSpec, device: int) -> KVSpec:
        return msgspec.structs.replace(spec, layers=tuple(spec.layers[n] for n in self.placement.cache_of(device)))

    def _part(self, stage: Stage, weights: Mapping[str, Any], kv: Any, adapters: Any) -> Part:
        member = self.members[stage.device]
        for node in stage.graph.nodes:
            if not member.device.supports(node):
                raise BackendError(f"device {member.label} cannot run node {node.name} ({node.op}), which it was given")
        return Part(
            member.device,
            stage.graph,
            {name: weights[name].parts[stage.device] for name in stage.graph.parameters},
            kv.parts[stage.device][0] if kv is not None and stage.device in kv.parts else None,
            None if adapters is None else adapters.tables[stage.device],
            stage.received,
        )


def memory_of(members: Sequence[Member]) -> Memory:
    """What all of them have together."""
    found = [members[pool[0]].device.memory() for pool in _pools(members)]
    return Memory(sum(memory.total for memory in found), sum(memory.free for memory in found))


ONE_DEVICE = 'a session of one: Session(PATH, device="cpu"), or "cuda:0"'


def refuse_training(name: str) -> NoReturn:
    """Training runs on one device."""
    raise UsageError(f"training runs on one device, not on {name}", hint=ONE_DEVICE, param="device")


def _pools(members: Sequence[Member]) -> list[list[int]]:
    """Members by number that share memory: all that work in the host's."""
    host = [i for i, member in enumerate(members) if member.device.info.kind == "cpu"]
    return [*([host] if host else []), *([i] for i in range(len(members)) if i not in host)]

"""LoRA adapters while the engine runs: which are loaded, which a request uses, and in which slot of the device.

`add`, `replace`, `remove`, `set_scale`, `infos`, `default` and `resolve` may be called from any thread; `acquire` and
`release` belong to the engine's. A request resolves its adapters once; what it got stays whole until it ends, whatever
is removed meanwhile. Several adapters at once fill one slot: their sum is an adapter of the sum of their ranks.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.backend import Adapter
from llamakit.errors import LONGEST_NAME, NotFoundError, UsageError
from llamakit.options import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llamakit.backend import AdapterTable
    from llamakit.models.lora import LoadedAdapter

MAX_SCALE = 100.0
MAX_SELECTED = 32  # adapters in one request


class AdapterInfo(msgspec.Struct, frozen=True):
    """A loaded adapter. `id` is never given twice, `path` is the file's name, `scale` what requests get by default."""

    id: int
    name: str
    path: str
    scale: float
    rank: int
    n_bytes: int
    metadata: dict[str, str] = {}


@dataclass(frozen=True, eq=False)
class Selection:
    """The adapters of one request with their scales, none of them 0, in the order of `key`.

    `key` is (digest, scale) of each: requests with equal keys compute the same. `names`: (name, scale), for people.
    """

    adapters: tuple[LoadedAdapter, ...] = ()
    scales: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[tuple[str, float], ...]:
        """What tells selections apart; () for none."""
        return tuple((adapter.digest, scale) for adapter, scale in zip(self.adapters, self.scales, strict=True))

    @property
    def names(self) -> tuple[tuple[str, float], ...]:
        """(name, scale) of each."""
        return tuple((adapter.name, scale) for adapter, scale in zip(self.adapters, self.scales, strict=True))


NOTHING = Selection()


@dataclass
class _Loaded:
    """An adapter in the store."""

    id: int
    adapter: LoadedAdapter
    scale: float


@dataclass
class _Slot:
    """What a slot of the device holds, how many requests use it, and when it was last asked for."""

    selection: Selection = NOTHING
    count: int = 0
    used: int = 0


class AdapterStore:
    """The adapters of one model. `table` has slots 1 to `n_slot`; None where the backend runs without adapters."""

    def __init__(self, table: AdapterTable | None, n_slot: int) -> None:
        if table is not None and not 1 <= n_slot <= table.n_slot:
            raise ValueError(f"{n_slot} slots of a table that has {table.n_slot}")
        self._table = table
        self._slots = {slot: _Slot() for slot in range(1, n_slot + 1)} if table is not None else {}
        self._lock = threading.Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._next_id = 0
        self._clock = 0
        self._stale = False  # an idle slot may hold what was removed

    def move(self, table: AdapterTable | None) -> None:
        """Go on with a new, empty table: the old one was lost, and no request runs."""
        self._table = table
        self._slots = {slot: _Slot() for slot in self._slots}

    def add(self, adapter: LoadedAdapter, scale: float = 1.0) -> AdapterInfo:
        """Make an adapter known under its name; `scale` is for requests that do not say what they want."""
        if self._table is None:
            raise UsageError(f"adapter {adapter.name!r} cannot be added: this model runs without adapters")
        scale = _checked(adapter.name, scale)
        with self._lock:
            if adapter.name in self._loaded:
                raise UsageError(f"an adapter named {adapter.name!r} is loaded already", hint="give it another name")
            loaded = self._loaded[adapter.name] = _Loaded(self._next_id, adapter, scale)
            self._next_id += 1
            return _info(loaded)

    def replace(self, adapter: LoadedAdapter) -> AdapterInfo:
        """Put an adapter in the place of the one with its name, which keeps id and scale.

        Requests that use the old one go on with it; those that come get the new one.
        """
        with self._lock:
            loaded = self._find(adapter.name)
            loaded.adapter = adapter
            self._stale = True
            return _info(loaded)

    def remove(self, name: str) -> None:
        """Forget an adapter. Requests that use it go on; the memory is given back when the last of them ends."""
        with self._lock:
            del self._loaded[self._find(name).adapter.name]
            self._stale = True

    def set_scale(self, name: str, scale: float) -> None:
        """Change the scale that requests get by default, from the next one on; 0 switches the adapter off."""
        scale = _checked(name, scale)
        with self._lock:
            self._find(name).scale = scale

    def infos(self) -> list[AdapterInfo]:
        """All that are loaded, in the order in which they were added."""
        with self._lock:
            return [_info(loaded) for loaded in self._loaded.values()]

    def resolve(self, selection: Iterable[tuple[str, float]] | None) -> Selection:
        """What a request asks for, checked; None: what it gets by default, whatever is removed meanwhile.

        Raises UsageError for unknown names, names given twice, and bad scales.
        """
        chosen: dict[str, tuple[LoadedAdapter, float]] = {}
        with self._lock:
            if selection is None:
                selection = [(name, loaded.scale) for name, loaded in self._loaded.items() if loaded.scale != 0]
            for name, scale in selection:
                if name in chosen:
                    raise UsageError(f"adapter {name!r} is named twice", param="lora")
                if len(chosen) >= MAX_SELECTED:
                    raise UsageError(f"more than {MAX_SELECTED} adapters at once", param="lora")
                if name not in self._loaded:
                    raise UsageError(f"no adapter named {name[:LONGEST_NAME]!r}", found=self._near(name), param="lora")
                chosen[name] = self._loaded[name].adapter, _checked(name, scale)
        used = [pair for pair in chosen.values() if pair[1] != 0]
        used.sort(key=lambda pair: (pair[0].digest, pair[1], pair[0].name))
        return Selection(tuple(adapter for adapter, _ in used), tuple(scale for _, scale in used)) if used else NOTHING

    def acquire(self, selection: Selection) -> int | None:
        """A slot that holds the selection, to be released later: 0 for none; None while all slots are in use."""
        key = selection.key
        if not key:
            return 0
        self._drop_stale()
        self._clock += 1
        held = [number for number, slot in self._slots.items() if slot.selection.key == key]
        idle = [number for number, slot in self._slots.items() if slot.count == 0]
        if held:
            number = held[0]
        elif idle:
            number = min(idle, key=lambda n: self._slots[n].used)
            self._fill(number, selection)
        else:
            return None
        slot = self._slots[number]
        slot.count += 1
        slot.used = self._clock
        return number

    def has_room(self, selection: Selection) -> bool:
        """Whether `acquire` would give a slot."""
        slots = self._slots.values()
        return not selection.key or any(not slot.count or slot.selection.key == selection.key for slot in slots)

    def release(self, slot: int) -> None:
        """Give a slot back that `acquire` returned. Its content stays until another selection needs the place."""
        if slot == 0:
            return
        if self._slots[slot].count < 1:
            raise ValueError(f"adapter slot {slot} is released more often than it was acquired")
        self._slots[slot].count -= 1
        self._drop_stale()

    def _fill(self, number: int, selection: Selection) -> None:
        assert self._table is not None
        self._slots[number] = _Slot()  # should filling not come to its end, the slot holds nothing
        self._table.set(number, combine(selection.adapters, selection.scales))
        self._slots[number] = _Slot(selection)

    def _drop_stale(self) -> None:
        """Empty idle slots that hold removed adapters."""
        with self._lock:
            if not self._stale:
                return
            known = {id(loaded.adapter) for loaded in self._loaded.values()}
            self._stale = False
        for number, slot in self._slots.items():
            if all(id(adapter) in known for adapter in slot.selection.adapters):
                continue
            if slot.count:
                self._stale = True  # look again when it is released
            elif self._table is not None:
                self._table.clear(number)
                self._slots[number] = _Slot()

    def _find(self, name: str) -> _Loaded:
        if name not in self._loaded:
            raise NotFoundError(f"no adapter named {name[:LONGEST_NAME]!r}", found=self._near(name), param="lora")
        return self._loaded[name]

    def _near(self, name: str) -> str:
        if not self._loaded:
            return "none is loaded"
        return nearest(name, self._loaded) or f"loaded: {', '.join(list(self._loaded)[:8])}"


def combine(adapters: Sequence[LoadedAdapter], scales: Sequence[float]) -> dict[str, Adapter]:
    """The sum of adapters, each times its scale, as one adapter a tensor."""
    parts: dict[str, list[Adapter]] = {}
    for adapter, scale in zip(adapters, scales, strict=True):
        for name, each in adapter.tensors.items():
            parts.setdefault(name, []).append(Adapter(each.A, each.B, each.scale * scale))
    return {name: each[0] if len(each) == 1 else _sum(each) for name, each in parts.items()}


def _sum(parts: Sequence[Adapter]) -> Adapter:
    """A stacked, B side by side with the scales in it, unless one scale serves all."""
    common = len({part.scale for part in parts}) == 1
    scale = parts[0].scale if common else 1.0
    scaled = [part.B if common else part.B.astype(np.float64) * part.scale for part in parts]
    if parts[0].A is None:
        return Adapter(None, np.sum(scaled, axis=0, dtype=np.float64).astype(np.float32), scale)
    a = np.concatenate([part.A for part in parts], axis=0)
    return Adapter(a, np.concatenate(scaled, axis=1).astype(np.float32), scale)


def _info(loaded: _Loaded) -> AdapterInfo:
    a = loaded.adapter
    return AdapterInfo(loaded.id, a.name, a.path.name, loaded.scale, a.rank, a.n_bytes, dict(a.metadata))


def _checked(name: str, scale: float) -> float:
    """A finite scale within bounds."""
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise UsageError(f"the scale of adapter {name!r} is {scale!r}; a number is needed", param="lora")
    if abs(scale) > MAX_SCALE:
        raise UsageError(
            f"the scale of adapter {name!r} is {scale:g}, outside -{MAX_SCALE:g} to {MAX_SCALE:g}", param="lora"
        )
    return float(scale)

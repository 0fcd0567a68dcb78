"""What an adapter's file holds, for people and programs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from llamakit.lora.files import read_adapter_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from llamakit.gguf.reader import GGUFFile


class AdapterDescription(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter. `kinds`: how many tensors of a kind it changes; `ranks`, `scales`: how many tensors have each."""

    path: str
    format: str
    architecture: str
    base: str
    alpha: float
    ranks: dict[str, int]
    scales: dict[str, int]
    kinds: dict[str, int]
    norms: int
    dora: bool
    parameters: int

    def lines(self) -> list[str]:
        """For people."""

        def table(counts: dict[str, int]) -> str:
            return ", ".join(f"{key} ({n})" for key, n in counts.items())

        out = [f"{self.path}: {self.format}{', DoRA' if self.dora else ''}, {self.architecture}"]
        out += [f"base        {self.base}"] if self.base else []
        out += [f"parameters  {self.parameters:,}", f"ranks       {table(self.ranks)}"]
        out += [f"scales      {table(self.scales)}", f"tensors     {table(self.kinds)}"]
        return out + ([f"norms       {self.norms}, whole"] if self.norms else [])


def describe(path: str | Path, base: GGUFFile | None = None) -> AdapterDescription:
    """Read an adapter of any format and say what is in it."""
    file = read_adapter_file(path, base)
    pairs = file.tensors.values()
    kinds = Counter(name.removesuffix(".weight").rpartition(".")[2] for name in file.tensors)
    whole = [*file.norms.values(), *file.magnitudes.values()]
    return AdapterDescription(
        path=str(path), format=file.format, architecture=file.layout.architecture, base=file.base_name,
        alpha=file.alpha, ranks=_counts(str(each.A.shape[0]) for each in pairs),
        scales=_counts(f"{each.scale:g}" for each in pairs), kinds=dict(kinds), norms=len(file.norms),
        dora=bool(file.magnitudes),
        parameters=int(sum(each.A.size + each.B.size for each in pairs) + sum(np.size(each) for each in whole)),
    )  # fmt: skip


def _counts(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())

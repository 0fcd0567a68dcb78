"""Programs that run one after the other, each on what those before it made: a graph over several devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llamakit.backend import Executable
from llamakit.graph.graph import Dim

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from llamakit.backend import Buffer, Part
    from llamakit.graph.graph import Value


@dataclass(frozen=True)
class Link:
    """A program of a relay. `inputs`: those of its graph; `received`: the names of those that earlier programs make."""

    program: Executable
    inputs: Mapping[str, Value]
    received: tuple[str, ...]


class Relay(Executable):
    """One program made of several. What one hands to another passes through the host, unless devices can do without.

    `outputs`: names of the results that are wanted in the end.
    """

    def __init__(self, links: Sequence[Link], outputs: Iterable[str]) -> None:
        self.links, self.outputs = list(links), list(outputs)
        self.inputs: dict[str, Any] = {}
        self._repeated: list[tuple[Link, str]] = []  # inputs that an earlier program takes too
        for link in links:
            for name in link.inputs:
                if name in self.inputs:
                    self._repeated.append((link, name))
                elif name not in link.received:
                    self.inputs[name] = link.program.inputs[name]

    def run(self, sizes: Mapping[str, int], *, longest: int = 0) -> dict[str, Buffer]:
        """Run all of them."""
        made: dict[str, Buffer] = {}
        for link, name in self._repeated:
            cut = _cut(link.inputs[name], sizes)
            link.program.inputs[name][cut] = self.inputs[name][cut]
        for link in self.links:
            for name in link.received:
                if not link.program.receive(name, made[name]):
                    link.program.inputs[name][_cut(link.inputs[name], sizes)] = made[name].numpy()
            made |= link.program.run(sizes, longest=longest)
        return {name: made[name] for name in self.outputs}

    def close(self) -> None:
        """Close all of them."""
        for link in self.links:
            link.program.close()


def compile_parts(parts: Sequence[Part]) -> Executable:
    """A relay of parts, each compiled by its own device."""
    links, made = [], set[str]()
    for part in parts:
        program = part.device.compile(part.graph, part.weights, kv=part.kv, adapters=part.adapters)
        links.append(Link(program, part.graph.inputs, tuple(name for name in part.received if name in made)))
        made |= part.graph.outputs.keys()
    return links[0].program if len(links) == 1 else Relay(links, made)


def _cut(value: Value, sizes: Mapping[str, int]) -> tuple[slice, ...]:
    """What of an input counts in this run."""
    return tuple(slice(0, sizes.get(size.name, 0) if isinstance(size, Dim) else size) for size in value.shape)

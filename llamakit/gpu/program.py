"""A compiled graph on a GPU: its input block, its arena, and its steps."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llamakit.backend import Executable, InputLayout, check_sizes
from llamakit.errors import BackendError, DeviceLostError
from llamakit.gpu.driver import At, Feature
from llamakit.gpu.lower import Lowering, lower, plan_of
from llamakit.gpu.memory import GPUBuffer
from llamakit.gpu.source import MOST, too_large
from llamakit.graph.graph import Dim
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llamakit.backend import Buffer
    from llamakit.gpu.adapters import GPUAdapters
    from llamakit.gpu.cells import GPUKV
    from llamakit.gpu.driver import Tape
    from llamakit.gpu.source import Kernels
    from llamakit.graph.graph import Graph, Node, Value

    Check = tuple[Node, str, int, int]
    Key = tuple[tuple[str, int], ...]


log = logging.getLogger("llamakit.gpu")
RECORDED_ROWS = 64  # steps of more are not recorded: they are rarely the same, and their launches are long
MOST_TAPES = 32
MOST_SEEN = 1024  # sizes that came once


class GPUExecutable(Executable):
    """A program: its kernels are compiled, all its memory is there."""

    def __init__(
        self,
        kernels: Kernels,
        graph: Graph,
        weights: Mapping[str, Any],
        kv: GPUKV | None,
        adapters: GPUAdapters | None,
        states: Mapping[str, Any],
    ) -> None:
        self.kernels, self.graph, self.maxima, driver = kernels, graph, graph.dims(), kernels.driver
        _refuse_large(graph)
        layout = InputLayout(graph.inputs)
        self._block = np.zeros(layout.n_values, np.int32)
        self.inputs = layout.views(self._block)
        self._begins = {name: offset for name, (offset, _) in layout.offsets.items()}
        plan = plan_of(graph, {name: weights[name].type for name in graph.parameters})
        self._arena = At(driver.allocate(4 * max(plan.total, 16)))
        self._inputs = At(driver.allocate(self._block.nbytes))
        self._lowering = Lowering(
            kernels, graph, layout, weights, states, kv, adapters, plan, self._arena, self._inputs
        )
        self._steps = lower(self._lowering)
        self._names = {value.id: name for name, value in graph.inputs.items()}
        self._checks = self._all_checks(kv)
        self._tapes: dict[Key, Tape] = {}
        self._seen: set[Key] = set()
        self._received: dict[str, GPUBuffer] = {}
        self._apart = False  # whether devices that reach each other failed to
        self._recorded = not graph.states  # training clears and copies between its kernels
        self._in_file = any(weights[name].in_place for name in graph.parameters)

    def run(self, sizes: Mapping[str, int], *, longest: int = 0) -> dict[str, GPUBuffer]:
        """Copy the inputs, launch all steps; results are waited for when they are read.

        Where weights lie in their file all is waited for, so that who looks at the file then knows what was read.
        """
        check_sizes(self.maxima, sizes)
        self._check(sizes)
        received, self._received = self._received, {}
        self._write(sizes, received)
        for name, made in received.items():
            self._fetch(name, made)
        self._go(sizes)
        if self._in_file:
            self.kernels.driver.finish()
        return {
            name: GPUBuffer(self.kernels, self._lowering.at(value), _cut(value, sizes))
            for name, value in self.graph.outputs.items()
        }

    def receive(self, name: str, made: Buffer) -> bool:
        """From a device that this one reaches."""
        if self._apart or not isinstance(made, GPUBuffer) or not self.kernels.driver.reaches(made.kernels.driver):
            return False
        self._received[name] = made
        return True

    def _fetch(self, name: str, made: GPUBuffer) -> None:
        """Copy what another program made to its place among the inputs; through the host where devices fail to."""
        n, driver, to = math.prod(made.shape), self.kernels.driver, self._inputs.plus(4 * self._begins[name])
        if not n:
            return
        try:
            driver.fetch(made.kernels.driver, made.place, to, 4 * n)
        except DeviceLostError:
            raise
        except BackendError as error:
            log.warning("what %s hands over passes through the host: %s", made.kernels.driver.info.name, error)
            self._apart = True
            driver.write(to, made.numpy())

    def _go(self, sizes: Mapping[str, int]) -> None:
        """All steps. Those of few rows come often, so what they launch is recorded when the same sizes come again."""
        adapters = self._lowering.adapters
        key = (*sorted(sizes.items()), ("adapters", 0 if adapters is None else adapters.version))
        tape = self._tapes.get(key)
        if tape is None and key in self._seen:
            self._seen.remove(key)
            self.kernels.settle(Feature.TAPES)
            tape = self.kernels.driver.record(lambda: self._steps_of(sizes))
            if tape is None:
                self._recorded = False  # here nothing can be
            else:
                self._keep(key, tape)
        if tape is not None:
            tape.play()
            return
        if self._recorded and max(sizes.values(), default=0) <= RECORDED_ROWS:
            if len(self._seen) > MOST_SEEN:
                self._seen.clear()
            self._seen.add(key)
        self._steps_of(sizes)

    def _steps_of(self, sizes: Mapping[str, int]) -> None:
        for step in self._steps:
            step(sizes)

    def _keep(self, key: Key, tape: Tape) -> None:
        if len(self._tapes) >= MOST_TAPES:  # the oldest goes
            self._tapes.pop(next(iter(self._tapes))).close()
        self._tapes[key] = tape

    def close(self) -> None:
        """Give the memory back."""
        for tape in self._tapes.values():
            tape.close()
        self._tapes.clear()
        for place in (self._arena, self._inputs, *self._lowering.constants):
            place.block.free()

    def _write(self, sizes: Mapping[str, int], received: Iterable[str]) -> None:
        """Copy what this run reads of the block, in as few pieces as what comes from elsewhere leaves."""
        pieces: list[list[int]] = [[0, 0]]
        for name, value in self.graph.inputs.items():  # they lie in this order
            begin, n = self._begins[name], math.prod(_cut(value, sizes))
            if name in received:
                pieces.append([begin + n, begin + n])
            elif n:
                pieces[-1][1] = begin + n
        for begin, end in pieces:
            if end > begin:
                self.kernels.driver.write(self._inputs.plus(4 * begin), self._block[begin:end])

    def _check(self, sizes: Mapping[str, int]) -> None:
        """Refuse indices that point outside of what they index: on a device nothing else would."""
        for (node, name, least, n), value in self._checks:
            found = self.inputs[self._names[value.id]][tuple(slice(0, size) for size in _cut(value, sizes))]
            if n == 0:
                _check_positions(node, found, self._input(node, "sequences", sizes))
            elif found.size and (found.min() < least or found.max() >= n):
                raise BackendError(f"node {node.name}: {name} {found.min()}..{found.max()} is outside {least}..{n - 1}")

    def _all_checks(self, kv: GPUKV | None) -> list[tuple[Check, Value]]:
        """What is to be checked of the inputs, each once: layers share theirs."""
        found: dict[tuple[int, str, int, int], tuple[Check, Value]] = {}
        for node in self.graph.nodes:
            for check in _checks_of(node, kv, self._lowering.adapters):
                value = node.input(check[1])
                if value is not None and value.id in self._names:
                    found.setdefault((value.id, *check[1:]), (check, value))
        return list(found.values())

    def _input(self, node: Node, name: str, sizes: Mapping[str, int]) -> Any:
        value = node.input(name)
        assert value is not None
        return self.inputs[self._names[value.id]][: _cut(value, sizes)[0]]


def _refuse_large(graph: Graph) -> None:
    """Values whose elements kernels could not count are refused before any memory is taken for them."""
    for node in graph.nodes:
        for value in node.outputs:
            n = math.prod(int(size) for size in value.shape)
            if n > MOST:
                raise too_large(f"the result of {node.name}, {n:,} elements,")


def _cut(value: Value, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A value's shape at this run."""
    return tuple(sizes[size.name] if isinstance(size, Dim) else size for size in value.shape)


def _check_positions(node: Node, positions: Any, sequences: Any) -> None:
    """Without a cache the rows of a sequence must have ascending positions, one apart."""
    order = np.argsort(sequences, kind="stable")
    same = np.diff(sequences[order]) == 0
    if not np.all(np.diff(positions[order])[same] == 1):
        raise BackendError(f"node {node.name}: the positions of a sequence must ascend by one, they are {positions}")


def _checks_of(node: Node, kv: GPUKV | None, adapters: GPUAdapters | None) -> list[Check]:
    """(node, input, least, end) of what a node's integers may be."""
    tensor = node.tensors[0] if node.tensors else None
    names = dict(node.named_inputs())
    found: list[Check] = []
    if adapters is not None and names.get("adapter") is not None:
        found.append((node, "adapter", 0, adapters.n_slot + 1))
    if node.op is Op.EMBEDDING and tensor is not None:
        found.append((node, "tokens", 0, tensor.shape[0]))
    elif node.op is Op.ATTENTION and kv is not None and node.attrs.layer is not None:
        tables = names["block_tables"]
        assert tables is not None
        n_table, width = (int(size) for size in tables.shape)
        found += [
            (node, "cells", 0, kv.n_cell), (node, "block_tables", 0, kv.spec.n_block),
            (node, "sequences", 0, n_table), (node, "positions", 0, width * kv.spec.block_size),
        ]  # fmt: skip
    elif node.op in (Op.ATTENTION, Op.ATTENTION_BACK):
        found.append((node, "positions", 0, 0))  # see `_check_positions`
    elif node.op in (Op.HEAD_LOSS, Op.CROSS_ENTROPY, Op.CROSS_ENTROPY_GRAD):
        first = node.inputs[0]
        n_vocab = tensor.shape[0] if tensor is not None else int(first.shape[-1]) if first is not None else 0
        found.append((node, "targets", -1, n_vocab))
    elif node.op is Op.SCATTER_ROWS and tensor is not None:
        found.append((node, "indices", 0, tensor.shape[0]))
    elif node.op is Op.SELECT_ROWS and node.inputs[0] is not None:
        found.append((node, "indices", 0, int(node.inputs[0].shape[0])))
    return found

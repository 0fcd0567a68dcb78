"""How much a step of a model reads and multiplies, and how long that takes a device at the least."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from llamakit.graph.graph import Dim
from llamakit.graph.ops import Op

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.backend import Ceilings, Device, KVSpec, Weight
    from llamakit.gguf import GGUFFile
    from llamakit.models import LoadedModel


class Work:
    """What steps of a model cost a device; the products of attention are left out.

    `weights`: the model's tensors on the device; `spec`: the KV cache that the steps use.
    """

    def __init__(
        self,
        model: LoadedModel,
        file: GGUFFile,
        device: Device,
        weights: Mapping[str, Weight],
        spec: KVSpec,
        ceilings: Ceilings,
    ) -> None:
        from llamakit.models import GraphSizes

        self.ceilings = ceilings
        sizes = GraphSizes(rows=2, out_rows=1, seqs=1, blocks_per_seq=1)
        self.row, self.out_row = Counter[str](), Counter[str]()  # multiply-adds of a row by type of the operands
        read = {}
        self.expert_bytes, self.used = 0, 1.0  # of all experts, and which part of them a row uses
        for node in model.build(sizes).nodes:
            names = [tensor.name for tensor in node.tensors if tensor is not None]
            if node.op is Op.LINEAR:
                name, first = names[0], node.output.shape[0]
                per = self.out_row if isinstance(first, Dim) and first.name == "out_rows" else self.row
                info = file.tensors[name]
                per[device.operands(info.type)] += info.shape[0] * info.shape[1]
                read[name] = weights[name].n_bytes
            if node.op is Op.EXPERTS:
                self.used = node.attrs.n_used / file.tensors[names[0]].shape[0]
                for name in names:
                    info = file.tensors[name]
                    self.row[device.operands(info.type)] += int(math.prod(info.shape) * self.used)
                    self.expert_bytes += weights[name].n_bytes
        self.weight_bytes = sum(read.values())
        self.kv_bytes = device.kv_size(spec) / (spec.n_block * spec.block_size)

    def least(self, n_prompt: int, n_gen: int, depth: int, batch: int, n_row: int) -> tuple[float, str]:
        """Seconds that a prompt in steps of `n_row` rows, then `n_gen` steps of `batch` rows take, and what limits."""
        total, by = 0.0, Counter[str]()
        for start in range(0, n_prompt, n_row):
            rows = min(n_row, n_prompt - start)
            seconds, limit = self._step(rows, int(start + rows == n_prompt), depth + start)
            total += seconds
            by[limit] += rows
        if n_gen:
            seconds, limit = self._step(batch, batch, batch * (depth + n_gen / 2))
            total += n_gen * seconds
            by[limit] += n_gen
        return total, by.most_common(1)[0][0]

    def _step(self, rows: int, outputs: int, positions: float) -> tuple[float, str]:
        """One step that reads so many positions of the KV cache."""
        experts = self.expert_bytes * (1 - (1 - self.used) ** rows)  # as if rows chose at random
        read = (self.weight_bytes + experts + positions * self.kv_bytes) / self.ceilings.read_bandwidth
        rates = self.ceilings.multiply_adds
        products = {
            type_: (rows * self.row[type_] + outputs * self.out_row[type_]) / rates[type_]
            for type_ in self.row | self.out_row
        }
        seconds = sum(products.values())
        return (read, "read") if read >= seconds else (seconds, max(products, key=lambda type_: products[type_]))

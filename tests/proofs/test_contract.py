"""Small proofs that the backend contract carries what is to come: training, adapters, forks and rewinds."""

from __future__ import annotations

import numpy as np
import pytest

from llamakit import Session
from llamakit.backend import Adapter
from llamakit.engine.kv_cache import BlockPool, BlockTable
from llamakit.engine.runner import BLOCK_SIZE, kv_spec
from llamakit.gguf import GGMLType
from llamakit.graph.graph import Dim, GraphBuilder
from llamakit.graph.ops import MatmulAttrs, Op, ScaleAttrs
from llamakit.models import GraphSizes
from llamakit.registry import Registry
from llamakit.testing.conformance import Source

BACKENDS = ["reference", "cpu"]
RNG = np.random.default_rng(0)


def lora_graph(n: int, n_in: int, n_out: int, rank: int, scale: float):
    """One linear with a LoRA pair in states, its loss, and the gradients of A and B, all in the graph's own ops."""
    g = GraphBuilder("lora")
    rows = Dim("rows", n)
    tokens, targets = g.input("tokens", (rows,)), g.input("targets", (rows,))
    x = g.add(Op.EMBEDDING, "x", (tokens,), tensors=(g.parameter("e", (n, n_in)),))
    a, b = g.read(g.state("A", (rank, n_in))), g.read(g.state("B", (n_out, rank)))
    middle = g.add(Op.MATMUL, "xA", (x, a), attrs=MatmulAttrs(transpose_b=True))
    delta = g.add(Op.MATMUL, "xAB", (middle, b), attrs=MatmulAttrs(transpose_b=True))
    base = g.add(Op.LINEAR, "base", (x,), tensors=(g.parameter("w", (n_out, n_in)), None))
    logits = g.add(Op.ADD, "logits", (base, g.add(Op.SCALE, "scaled", (delta,), attrs=ScaleAttrs(scale))))
    loss = g.add(Op.CROSS_ENTROPY, "loss", (logits, targets))
    d_logits = g.add(Op.CROSS_ENTROPY_GRAD, "d_logits", (logits, targets))
    d_delta = g.add(Op.SCALE, "d_delta", (d_logits,), attrs=ScaleAttrs(scale))
    d_b = g.add(Op.MATMUL, "dB", (d_delta, middle), attrs=MatmulAttrs(transpose_a=True))
    d_middle = g.add(Op.MATMUL, "d_middle", (d_delta, b))
    d_a = g.add(Op.MATMUL, "dA", (d_middle, x), attrs=MatmulAttrs(transpose_a=True))
    return g.build(loss=loss, dA=d_a, dB=d_b)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("type_", [GGMLType.F32, GGMLType.Q8_0], ids=lambda t: t.name)
def test_finite_differences_of_a_lora_layer(backend, type_):
    n, n_in, n_out, rank = 4, 32, 7, 3
    device = Registry.discover().backend(backend)().open()
    graph = lora_graph(n, n_in, n_out, rank, 0.5)
    sources = {
        "e": Source("e", GGMLType.F32, RNG.normal(size=(n, n_in)).astype(np.float32)),
        "w": Source("w", type_, RNG.normal(size=(n_out, n_in)).astype(np.float32)),
    }
    weights = {name: device.load(s, graph.uses()[name]) for name, s in sources.items()}
    states = {"A": device.state((rank, n_in)), "B": device.state((n_out, rank))}
    values = {name: RNG.normal(size=s.shape).astype(np.float32) * 0.3 for name, s in states.items()}
    program = device.compile(graph, weights, states=states)
    program.inputs["tokens"][:], program.inputs["targets"][:] = np.arange(n), [0, 3, 6, 1]

    def run() -> dict[str, np.ndarray]:
        for name, value in values.items():
            states[name].write(value)
        return {k: np.array(v.numpy(), np.float64) for k, v in program.run({"rows": n}).items()}

    gradients = run()
    step = 1e-2
    for name in ("A", "B"):
        for index in [(0, 0), (1, 2), (2, 1)]:
            kept = values[name][index]
            losses = []
            for sign in (1, -1):
                values[name][index] = kept + sign * step
                losses.append(run()["loss"].sum())
            values[name][index] = kept
            slope = (losses[0] - losses[1]) / (2 * step)
            assert gradients[f"d{name}"][index] == pytest.approx(slope, rel=2e-2, abs=2e-3)


class Model:
    """A real model with an adapter table, stepped by hand."""

    def __init__(self, path, backend: str) -> None:
        self.session = Session(path, backend=backend)
        s = self.session
        self.kv = s.device.kv_cache(kv_spec(s.model, 3 * 128 // BLOCK_SIZE, "f16"))
        self.pool = BlockPool(self.kv.spec.n_block)
        targets = {"blk.0.attn_q.weight": (64, 64), "blk.2.ffn_up.weight": (172, 64), "token_embd.weight": (512, 64)}
        self.table = s.device.adapter_table(targets, 2)
        for slot in (1, 2):
            rng = np.random.default_rng(slot)
            pairs = {
                name: Adapter(
                    A=rng.normal(size=(2 + slot, shape[1])).astype(np.float32) * 0.2,
                    B=rng.normal(size=(shape[0], 2 + slot)).astype(np.float32) * 0.2,
                    scale=0.7,
                )
                for name, shape in targets.items()
            }
            self.table.set(slot, pairs)
        sizes = GraphSizes(rows=64, seqs=3, blocks_per_seq=128 // BLOCK_SIZE + 1)
        graph = s.model.build(sizes, adapters=True)
        self.program = s.device.compile(graph, s.weights, kv=self.kv, adapters=self.table)

    def new(self) -> BlockTable:
        return BlockTable(self.pool, self.kv)

    def step(self, work: list[tuple[BlockTable, list[int], int]]) -> list[np.ndarray]:
        """For each (table, tokens, adapter slot): logits after its last token."""
        inputs, n, out = self.program.inputs, 0, []
        for i, (table, tokens, slot) in enumerate(work):
            start, m = table.length, len(tokens)
            inputs["cells"][n : n + m] = table.extend(m)
            inputs["tokens"][n : n + m] = tokens
            inputs["positions"][n : n + m] = range(start, start + m)
            inputs["sequences"][n : n + m] = i
            inputs["adapters"][n : n + m] = slot
            inputs["block_tables"][i, : len(table.blocks)] = table.blocks
            n += m
            out.append(n - 1)
        inputs["out_rows"][: len(out)] = out
        inputs["out_adapters"][: len(out)] = [slot for _, _, slot in work]
        longest = max(table.length for table, _, _ in work)
        sizes = {"rows": n, "out_rows": len(out), "seqs": len(work)}
        return list(np.array(self.program.run(sizes, longest=longest)["logits"].numpy()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_adapters_a_fork_and_a_rewind_in_one_step(stories260k, backend):
    """One batch of a row with adapter 1, a forked one with adapter 2 and a rewound one gives what each gives alone."""
    prompt, more = [1, 403, 407, 261, 378], [300, 310, 320]

    def alone(tokens: list[int], slots: list[int]) -> np.ndarray:
        model = Model(stories260k, backend)
        table = model.new()
        found = None
        for token, slot in zip(tokens, slots, strict=True):
            found = model.step([(table, [token], slot)])[0]
        return found

    model = Model(stories260k, backend)
    one, rewound = model.new(), model.new()
    model.step([(one, prompt, 0), (rewound, prompt + more, 0)])
    forked = one.fork()
    rewound.truncate(len(prompt) + 1)
    found = model.step([(one, [11], 1), (forked, [12], 2), (rewound, [13], 0)])
    n = len(prompt)
    expected = [
        alone([*prompt, 11], [0] * n + [1]),
        alone([*prompt, 12], [0] * n + [2]),
        alone([*prompt, more[0], 13], [0] * (n + 2)),
    ]
    for a, b in zip(found, expected, strict=True):
        if backend == "cpu":
            assert np.array_equal(a, b)  # the same bits, however it is batched
        else:
            assert np.allclose(a, b, rtol=1e-4, atol=1e-4)
    plain = alone([*prompt, 11], [0] * (n + 1))
    assert not np.allclose(found[0], plain, atol=1e-3)  # the adapter did something

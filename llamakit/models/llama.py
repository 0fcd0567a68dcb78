"""The network: LLaMA and its family, from hyperparameters to a graph.

    x = embedding(token)
    each layer:  x += attn_output(attention(rope(attn_q(n)), rope(attn_k(n)), attn_v(n)))   with n = rms_norm(x)
                 x += ffn_down(silu(ffn_gate(n)) * ffn_up(n))                                 with n = rms_norm(x)
    with experts: x += sum over the chosen of share * ffn_down(silu(ffn_gate(n)) * ffn_up(n)), shares by ffn_gate_inp(n)
    logits = output(rms_norm(x)) of the rows that want one

Tensor names are GGUF's. Source: LLaMA, arXiv:2302.13971; grouped queries, arXiv:2305.13245;
experts: Mixtral, arXiv:2401.04088.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from llamakit.errors import ModelFileError
from llamakit.graph.cache import CacheLayer
from llamakit.graph.graph import Dim, DType, GraphBuilder, Value
from llamakit.graph.ops import (
    AttentionAttrs,
    ExpertsAttrs,
    GatedAttrs,
    HeadLossAttrs,
    LinearAttrs,
    Op,
    ReshapeAttrs,
    RMSNormAttrs,
)
from llamakit.models.architecture import Architecture
from llamakit.models.hparams import HParams, read_hparams
from llamakit.models.rope import override, rope_attrs

if TYPE_CHECKING:
    from collections.abc import Set

    from llamakit.graph.graph import Graph, Tensor
    from llamakit.graph.ops import RopeAttrs
    from llamakit.models.architecture import ModelFile
    from llamakit.models.rope import RopeOverrides


@dataclass(frozen=True, slots=True)
class GraphSizes:
    """Maxima of one step: rows (tokens), rows with an output, sequences, and blocks in a sequence's table."""

    rows: int
    seqs: int
    blocks_per_seq: int
    out_rows: int = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """Where an architecture differs. `rope_pairs`: see `RopeAttrs`; `qk_norm`: RMS norm of each head's q and k."""

    rope_pairs: str = "adjacent"
    qk_norm: bool = False


class LlamaGraph:
    """Builds graphs of one model. `tensors`: names in the file, which say what biases there are.

    `states`: weights that are states of the device, to be trained. `activations`: see `LinearAttrs`.
    """

    def __init__(
        self,
        hparams: HParams,
        variant: Variant,
        rope: RopeAttrs,
        tensors: Set[str],
        *,
        states: Set[str] = frozenset(),
        activations: str = "native",
    ) -> None:
        self.h, self.variant, self.rope, self.tensors, self.states = hparams, variant, rope, tensors, states
        self.linear_attrs = LinearAttrs(activations)
        self.g = GraphBuilder(hparams.architecture)
        self.adapters: Value | None = None
        self.cache: tuple[Value, ...] = ()  # cells and block tables

    def build(self, sizes: GraphSizes, outputs: tuple[str, ...], adapters: bool = False) -> Graph:
        """What the engine runs; `outputs` of "logits" (out_rows, n_vocab) and "embeddings" (out_rows, n_embd)."""
        g, rows = self.g, Dim("rows", sizes.rows)
        self._inputs(rows)
        tables = g.input("block_tables", (Dim("seqs", sizes.seqs), sizes.blocks_per_seq))
        self.cache = (g.input("cells", (rows,)), tables)
        chosen = (Dim("out_rows", sizes.out_rows),)
        out_rows = g.input("out_rows", chosen)
        self.adapters = g.input("adapters", (rows,)) if adapters else None
        x = g.add(Op.SELECT_ROWS, "out_rows", (self.layers(), out_rows))
        # Adapters of the head and of the last norm need the slots of the chosen rows only.
        self.adapters = g.input("out_adapters", chosen) if adapters else None
        x = self.norm(x, "output_norm", self.h.n_embd)
        made = {"embeddings": x} if "embeddings" in outputs else {}
        if "logits" in outputs:
            made["logits"] = self.head(x)
        return g.build(**made)

    def build_loss(self, rows: int) -> Graph:
        """What training runs: the loss of each row, (rows,), without a cache.

        Inputs, all (rows,): tokens, positions and sequences; targets, the token that should follow, -1 for none; and
        weights, float32, with which the losses count.
        """
        g, size = self.g, Dim("rows", rows)
        self._inputs(size)
        targets = g.input("targets", (size,))
        weights = g.input("weights", (size,), DType.F32)
        x = self.norm(self.layers(), "output_norm", self.h.n_embd)
        if "output.bias" in self.tensors:
            raise ModelFileError("the model's head has a bias (output.bias), which training does not know")
        attrs = HeadLossAttrs(activations=self.linear_attrs.activations)
        return g.build(
            loss=g.add(Op.HEAD_LOSS, "loss", (x, targets, weights), tensors=(self._head_weight(),), attrs=attrs)
        )

    def _inputs(self, rows: Dim) -> None:
        self.tokens, self.positions, self.sequences = (
            self.g.input(name, (rows,)) for name in ("tokens", "positions", "sequences")
        )

    def layers(self) -> Value:
        """From tokens to what the last layer makes, (rows, n_embd)."""
        h = self.h
        weight = self.weight("token_embd.weight", (h.n_vocab, h.n_embd))
        x = self.g.add(Op.EMBEDDING, "token_embd", (self.tokens, self.adapters), tensors=(weight,))
        for layer in range(h.n_layer):
            x = self.attention(x, layer)
            x = self.experts(x, f"blk.{layer}") if h.n_expert else self.feed_forward(x, layer)
        return x

    def weight(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the file, or a state in its place."""
        return self.g.state(name, shape) if name in self.states else self.g.parameter(name, shape)

    def attention(self, x: Value, layer: int) -> Value:
        """x + attn_output(attention(...)), (rows, n_embd)."""
        h, g, blk = self.h, self.g, f"blk.{layer}"
        n_head, n_head_kv, _ = h.layer(layer)
        n = self.norm(x, f"{blk}.attn_norm", h.n_embd)
        q = self.heads(n, f"{blk}.attn_q", n_head, h.head_dim_k)
        k = self.heads(n, f"{blk}.attn_k", n_head_kv, h.head_dim_k)
        v = self.heads(n, f"{blk}.attn_v", n_head_kv, h.head_dim_v)
        if self.variant.qk_norm:
            q = self.norm(q, f"{blk}.attn_q_norm", h.head_dim_k, adapted=False)
            k = self.norm(k, f"{blk}.attn_k_norm", h.head_dim_k, adapted=False)
        q = g.add(Op.ROPE, f"{blk}.rope_q", (q, self.positions), attrs=self.rope)
        k = g.add(Op.ROPE, f"{blk}.rope_k", (k, self.positions), attrs=self.rope)
        cached = bool(self.cache)
        attrs = AttentionAttrs(h.head_dim_k**-0.5, layer if cached else None, h.sliding_window, not cached)
        inputs = (q, k, v, self.positions, self.sequences, *self.cache)
        out, *_ = g.add_all(Op.ATTENTION, f"{blk}.attention", inputs, attrs=attrs)
        out = g.add(Op.RESHAPE, f"{blk}.merge", (out,), attrs=ReshapeAttrs((n_head * h.head_dim_v,)))
        out = self.linear(out, f"{blk}.attn_output", h.n_embd)
        return g.add(Op.ADD, f"{blk}.attn_residual", (x, out))

    def heads(self, x: Value, name: str, n_head: int, head_dim: int) -> Value:
        """A projection split into heads, (rows, n_head, head_dim)."""
        flat = self.linear(x, name, n_head * head_dim)
        return self.g.add(Op.RESHAPE, f"{name}.heads", (flat,), attrs=ReshapeAttrs((n_head, head_dim)))

    def feed_forward(self, x: Value, layer: int) -> Value:
        """x + ffn_down(silu(ffn_gate(n)) * ffn_up(n)), (rows, n_embd)."""
        blk, n_ff = f"blk.{layer}", self.h.layer(layer).n_ff
        n = self.norm(x, f"{blk}.ffn_norm", self.h.n_embd)
        gate, up = (self.linear(n, f"{blk}.{name}", n_ff) for name in ("ffn_gate", "ffn_up"))
        gated = self.g.add(Op.GATED, f"{blk}.ffn_gated", (gate, up), attrs=GatedAttrs("silu"))
        down = self.linear(gated, f"{blk}.ffn_down", self.h.n_embd)
        return self.g.add(Op.ADD, f"{blk}.ffn_residual", (x, down))

    def experts(self, x: Value, blk: str) -> Value:
        """x + what the chosen experts make of rms_norm(x), (rows, n_embd)."""
        h, g = self.h, self.g
        n = self.norm(x, f"{blk}.ffn_norm", h.n_embd)
        scores = self.linear(n, f"{blk}.ffn_gate_inp", h.n_expert)
        inner, outer = (h.n_expert, h.n_ff_expert, h.n_embd), (h.n_expert, h.n_embd, h.n_ff_expert)
        shapes = {"ffn_gate_exps": inner, "ffn_up_exps": inner, "ffn_down_exps": outer}
        weights = tuple(self.weight(f"{blk}.{name}.weight", shape) for name, shape in shapes.items())
        made = g.add(Op.EXPERTS, f"{blk}.ffn_moe", (n, scores), tensors=weights, attrs=ExpertsAttrs(h.n_expert_used))
        return g.add(Op.ADD, f"{blk}.ffn_residual", (x, made))

    def head(self, x: Value) -> Value:
        """Logits, (out_rows, n_vocab)."""
        tensors = (self._head_weight(), self._bias("output", self.h.n_vocab))
        return self.g.add(Op.LINEAR, "output", (x, self.adapters), tensors=tensors, attrs=self.linear_attrs)

    def _head_weight(self) -> Tensor:
        """Without an `output.weight` the embedding serves twice."""
        name = "token_embd" if self.h.tied_embeddings else "output"
        return self.weight(f"{name}.weight", (self.h.n_vocab, self.h.n_embd))

    def norm(self, x: Value, name: str, size: int, adapted: bool = True) -> Value:
        """RMS norm over the last size."""
        weight = self.weight(f"{name}.weight", (size,))
        inputs = (x, self.adapters if adapted else None)
        return self.g.add(Op.RMS_NORM, name, inputs, tensors=(weight,), attrs=RMSNormAttrs(self.h.norm_epsilon))

    def linear(self, x: Value, name: str, n_out: int) -> Value:
        """A linear with the bias that the file has, if any."""
        weight = self.weight(f"{name}.weight", (n_out, int(x.shape[-1])))
        tensors = (weight, self._bias(name, n_out))
        return self.g.add(Op.LINEAR, name, (x, self.adapters), tensors=tensors, attrs=self.linear_attrs)

    def _bias(self, name: str, n_out: int) -> Tensor | None:
        bias = f"{name}.bias"
        return self.weight(bias, (n_out,)) if bias in self.tensors else None


class LlamaFamily(Architecture):
    """What LLaMA and its relatives share. A relative says where it differs, or brings a `graph` of its own."""

    variant: ClassVar[Variant] = Variant()
    graph: ClassVar[type[LlamaGraph]] = LlamaGraph

    def __init__(self, file: ModelFile, overrides: RopeOverrides | None = None) -> None:
        """Read what the family shares."""
        self.hparams = self.read(file)
        self.tensors = file.tensors.keys()
        factors = file.tensor("rope_freqs.weight") if "rope_freqs.weight" in file.tensors else None
        self.rope = rope_attrs(override(self.hparams.rope, overrides), self.variant.rope_pairs, factors)

    def read(self, file: ModelFile) -> HParams:
        """The hyperparameters, under the names that GGUF gives them for this architecture."""
        shapes = {key: tuple(info.shape) for key, info in file.tensors.items()}
        return read_hparams(file.metadata, self.name, shapes, str(file.path))

    def cache_layers(self) -> tuple[CacheLayer, ...]:
        """Keys and values of every layer, keys rotated alike."""
        h = self.hparams
        heads = (h.layer(i).n_head_kv for i in range(h.n_layer))
        return tuple(CacheLayer(n, h.head_dim_k, h.head_dim_v, self.rope) for n in heads)

    def build(
        self, sizes: GraphSizes, outputs: tuple[str, ...], *, adapters: bool = False, activations: str = "native"
    ) -> Graph:
        """What the engine runs."""
        return self._graph(activations=activations).build(sizes, outputs, adapters)

    def build_loss(self, rows: int, *, states: Set[str] = frozenset(), activations: str = "native") -> Graph:
        """What training runs."""
        return self._graph(activations=activations, states=states).build_loss(rows)

    def _graph(self, *, activations: str, states: Set[str] = frozenset()) -> LlamaGraph:
        return self.graph(self.hparams, self.variant, self.rope, self.tensors, states=states, activations=activations)

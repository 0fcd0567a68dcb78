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
from typing import TYPE_CHECKING

from llamakit.graph.graph import Dim, GraphBuilder, Value
from llamakit.graph.ops import AttentionAttrs, ExpertsAttrs, GatedAttrs, Op, ReshapeAttrs, RMSNormAttrs

if TYPE_CHECKING:
    from collections.abc import Set

    from llamakit.graph.graph import Graph, Tensor
    from llamakit.graph.ops import RopeAttrs
    from llamakit.models.hparams import HParams


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
    """Builds the graph of one model. `tensors`: names in the file, which say what biases there are."""

    def __init__(
        self,
        hparams: HParams,
        variant: Variant,
        rope: RopeAttrs,
        tensors: Set[str],
        sizes: GraphSizes,
        adapters: bool = False,
    ) -> None:
        self.h, self.variant, self.rope, self.tensors = hparams, variant, rope, tensors
        self.g = g = GraphBuilder(hparams.architecture)
        rows, seqs = Dim("rows", sizes.rows), Dim("seqs", sizes.seqs)
        self.tokens = g.input("tokens", (rows,))
        self.positions = g.input("positions", (rows,))
        self.sequences = g.input("sequences", (rows,))
        self.cells = g.input("cells", (rows,))
        self.block_tables = g.input("block_tables", (seqs, sizes.blocks_per_seq))
        self.out_rows = g.input("out_rows", (Dim("out_rows", sizes.out_rows),))
        self.adapters = g.input("adapters", (rows,)) if adapters else None

    def build(self, outputs: tuple[str, ...]) -> Graph:
        """The whole graph; `outputs` of "logits" (out_rows, n_vocab) and "embeddings" (out_rows, n_embd)."""
        h = self.h
        weight = self.g.parameter("token_embd.weight", (h.n_vocab, h.n_embd))
        x = self.g.add(Op.EMBEDDING, "token_embd", (self.tokens, self.adapters), tensors=(weight,))
        for layer in range(h.n_layer):
            x = self.attention(x, layer)
            x = self.experts(x, f"blk.{layer}") if h.n_expert else self.feed_forward(x, f"blk.{layer}")
        x = self.g.add(Op.SELECT_ROWS, "out_rows", (x, self.out_rows))
        # Adapters of the head and of the last norm would need the slots of the chosen rows only.
        self.adapters = self._chosen_adapters()
        x = self.norm(x, "output_norm", h.n_embd)
        made = {"embeddings": x} if "embeddings" in outputs else {}
        if "logits" in outputs:
            made["logits"] = self.head(x)
        return self.g.build(**made)

    def _chosen_adapters(self) -> Value | None:
        return None if self.adapters is None else self.g.input("out_adapters", self.out_rows.shape)

    def attention(self, x: Value, layer: int) -> Value:
        """x + attn_output(attention(...)), (rows, n_embd)."""
        h, g, blk = self.h, self.g, f"blk.{layer}"
        n = self.norm(x, f"{blk}.attn_norm", h.n_embd)
        q = self.heads(n, f"{blk}.attn_q", h.n_head, h.head_dim_k)
        k = self.heads(n, f"{blk}.attn_k", h.n_head_kv, h.head_dim_k)
        v = self.heads(n, f"{blk}.attn_v", h.n_head_kv, h.head_dim_v)
        if self.variant.qk_norm:
            q = self.norm(q, f"{blk}.attn_q_norm", h.head_dim_k, adapted=False)
            k = self.norm(k, f"{blk}.attn_k_norm", h.head_dim_k, adapted=False)
        q = g.add(Op.ROPE, f"{blk}.rope_q", (q, self.positions), attrs=self.rope)
        k = g.add(Op.ROPE, f"{blk}.rope_k", (k, self.positions), attrs=self.rope)
        attrs = AttentionAttrs(h.head_dim_k**-0.5, layer, h.sliding_window)
        inputs = (q, k, v, self.positions, self.sequences, self.cells, self.block_tables)
        out = g.add(Op.ATTENTION, f"{blk}.attention", inputs, attrs=attrs)
        out = g.add(Op.RESHAPE, f"{blk}.merge", (out,), attrs=ReshapeAttrs((h.n_head * h.head_dim_v,)))
        out = self.linear(out, f"{blk}.attn_output", h.n_embd)
        return g.add(Op.ADD, f"{blk}.attn_residual", (x, out))

    def heads(self, x: Value, name: str, n_head: int, head_dim: int) -> Value:
        """A projection split into heads, (rows, n_head, head_dim)."""
        flat = self.linear(x, name, n_head * head_dim)
        return self.g.add(Op.RESHAPE, f"{name}.heads", (flat,), attrs=ReshapeAttrs((n_head, head_dim)))

    def feed_forward(self, x: Value, blk: str) -> Value:
        """x + ffn_down(silu(ffn_gate(n)) * ffn_up(n)), (rows, n_embd)."""
        n = self.norm(x, f"{blk}.ffn_norm", self.h.n_embd)
        gate, up = (self.linear(n, f"{blk}.{name}", self.h.n_ff) for name in ("ffn_gate", "ffn_up"))
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
        weights = tuple(g.parameter(f"{blk}.{name}.weight", shape) for name, shape in shapes.items())
        made = g.add(Op.EXPERTS, f"{blk}.ffn_moe", (n, scores), tensors=weights, attrs=ExpertsAttrs(h.n_expert_used))
        return g.add(Op.ADD, f"{blk}.ffn_residual", (x, made))

    def head(self, x: Value) -> Value:
        """Logits, (out_rows, n_vocab); without an `output.weight` the embedding serves twice."""
        name = "token_embd" if self.h.tied_embeddings else "output"
        weight = self.g.parameter(f"{name}.weight", (self.h.n_vocab, self.h.n_embd))
        return self.g.add(
            Op.LINEAR, "output", (x, self.adapters), tensors=(weight, self._bias("output", self.h.n_vocab))
        )

    def norm(self, x: Value, name: str, size: int, adapted: bool = True) -> Value:
        """RMS norm over the last size."""
        weight = self.g.parameter(f"{name}.weight", (size,))
        inputs = (x, self.adapters if adapted else None)
        return self.g.add(Op.RMS_NORM, name, inputs, tensors=(weight,), attrs=RMSNormAttrs(self.h.norm_epsilon))

    def linear(self, x: Value, name: str, n_out: int) -> Value:
        """A linear with the bias that the file has, if any."""
        weight = self.g.parameter(f"{name}.weight", (n_out, int(x.shape[-1])))
        return self.g.add(Op.LINEAR, name, (x, self.adapters), tensors=(weight, self._bias(name, n_out)))

    def _bias(self, name: str, n_out: int) -> Tensor | None:
        bias = f"{name}.bias"
        return self.g.parameter(bias, (n_out,)) if bias in self.tensors else None

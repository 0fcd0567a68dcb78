"""The graph: what a network computes, as a list of nodes over a closed set of ops."""

from llamakit.graph.graph import Dim, DType, Graph, GraphBuilder, Node, Source, Tensor, Value
from llamakit.graph.ops import Op

__all__ = ["DType", "Dim", "Graph", "GraphBuilder", "Node", "Op", "Source", "Tensor", "Value"]

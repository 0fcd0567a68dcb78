"""The error of graphs that break a rule."""

from llamakit.errors import LlamaKitError


class GraphError(LlamaKitError):
    """A graph that breaks a rule; names the node."""

"""Optimizers: one file each. An optimizer adds the nodes of its update to a graph, see `llamakit/optimizer.py`."""

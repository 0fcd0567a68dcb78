"""Samplers: one file each. The order in which they run is the chain's, see `llamakit/engine/sampling.py`."""

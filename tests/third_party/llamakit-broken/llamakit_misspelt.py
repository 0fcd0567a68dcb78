"""A plugin whose hook has a misspelt name."""

from llamakit.hookspecs import hookimpl


@hookimpl
def llamakit_sampler():
    """One letter short."""
    return []

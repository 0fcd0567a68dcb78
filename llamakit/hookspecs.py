"""The hooks through which plugins give their classes to LlamaKit.

Each is called once, when its plugin is first loaded, and must not open a device, read the environment or
load a model. What happens for every token goes through the objects, never through a hook.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from llamakit.backend import Backend
    from llamakit.chat.tools import ToolFormat
    from llamakit.frontend import Frontend
    from llamakit.models.architecture import Architecture
    from llamakit.optimizer import Optimizer
    from llamakit.sampler import Sampler

hookspec = pluggy.HookspecMarker("llamakit")
hookimpl = pluggy.HookimplMarker("llamakit")


@hookspec
def llamakit_backends() -> Iterable[type[Backend]]:  # type: ignore[empty-body]
    """Compute backends of this plugin."""


@hookspec
def llamakit_architectures() -> Iterable[type[Architecture]]:  # type: ignore[empty-body]
    """Architectures of models that this plugin knows: how their files are read, and the graphs that compute them."""


@hookspec
def llamakit_samplers() -> Iterable[type[Sampler]]:  # type: ignore[empty-body]
    """Samplers of this plugin. Config decides which run and in what order, not the order of hooks."""


@hookspec
def llamakit_optimizers() -> Iterable[type[Optimizer]]:  # type: ignore[empty-body]
    """Optimizers of this plugin: what a training run may be told to use by name."""


@hookspec
def llamakit_frontends() -> Iterable[type[Frontend]]:  # type: ignore[empty-body]
    """Frontends of this plugin: objects that contribute commands to the command line."""


@hookspec
def llamakit_tool_formats() -> Iterable[ToolFormat]:  # type: ignore[empty-body]
    """How families of models call tools. The first that fits a chat template counts; ours come last."""

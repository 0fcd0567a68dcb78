"""How the families of models that we know call tools; another package can give more in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.chat.tools import ToolFormat


@hookimpl
def llamakit_tool_formats() -> Sequence[ToolFormat]:
    """Give the registry ours."""
    from llamakit.chat.tools import FORMATS

    return FORMATS

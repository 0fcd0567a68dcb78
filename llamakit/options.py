"""Options declared once.

A component declares its options as a subclass of `Options`: a strict, typed msgspec Struct whose fields carry
bounds and a description. Config keys, CLI flags, REST fields, OpenAPI entries, controls on the web page and
the reference page of the docs are all made from that one declaration.

    class TopKOptions(Options):
        top_k: Annotated[int, Meta(ge=0, le=1_000_000, description="Keep the k likeliest tokens; 0 keeps all.")] = 40
"""

from __future__ import annotations

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base class of every component's options. Every field has a type with bounds, a description, a default."""

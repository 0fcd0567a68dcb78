"""Grammars without a model: looking at one, and a JSON Schema as GBNF. The work is done by the sampler `grammar`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.registry import Registry


def study(
    kind: str, source: object, *, lenient: bool = False, token_ids: Callable[[str], list[int]] | None = None,
    registry: Registry | None = None,
) -> Any:  # fmt: skip
    """A grammar to look at: `kind` is gbnf, lark, json_schema, regex, choices or structural_tag.

    `source` is what is written in it. What comes back has `n_rule`, `n_state`, `warnings`, `left_out` (of lenient
    schemas), `gbnf()`, `check(text)` with the place where a text leaves the grammar, and `texts(count, seed=...)`.
    `token_ids` turns the text of a token into ids, for grammars that name tokens. UsageError names the line and column,
    or the JSON pointer, of what is wrong.
    """
    if registry is None:
        from llamakit.registry import Registry as Plugins

        registry = Plugins.discover()
    sampler: Any = registry.sampler("grammar")
    return sampler.study(kind, source, lenient=lenient, token_ids=token_ids)


def json_schema_to_grammar(schema: dict[str, Any] | bool | str, *, lenient: bool = False) -> str:
    """A JSON Schema, or its text, as a grammar in GBNF that llama.cpp reads too.

    UsageError names what cannot be enforced; with `lenient` it is left out.
    """
    text: str = study("json_schema", schema, lenient=lenient).gbnf()
    return text

"""A plain list of texts, one of which is the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.build import Builder, alt, text
from llamakit.plugins.samplers.grammar.errors import GrammarError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llamakit.plugins.samplers.grammar.ir import Grammar


def choices_to_grammar(choices: Sequence[str]) -> Grammar:
    """The grammar whose texts are exactly these."""
    if not choices:
        raise GrammarError("the list of choices is empty", param="choices")
    builder = Builder()
    return builder.grammar(
        builder.new_rule("root", "the choices", alt(text(choice) for choice in dict.fromkeys(choices)))
    )

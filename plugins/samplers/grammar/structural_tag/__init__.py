"""Structural tags to the intermediate form: free text, tags, schemas and expressions, put together.

Free text ends where what follows it begins: what follows does not occur in it, so that there is one way to read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.plugins.samplers.grammar.ir import Grammar


def structural_tag_to_grammar(
    source: dict[str, Any] | str, token_ids: Callable[[str], list[int]] | None = None, left_out: list[str] | None = None
) -> Grammar:
    """The grammar of a structural tag, or of its text; GrammarError names the part at fault.

    `token_ids` tokenises the text of a token; what a lenient schema leaves out is added to `left_out`.
    """
    from llamakit.plugins.samplers.grammar.structural_tag.convert import Converter, read

    return Converter(token_ids, [] if left_out is None else left_out).grammar(read(source))

"""Reading a notation with lark: what a rule consists of goes to a method of a reader while the text is parsed."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.errors import at as error_at

if TYPE_CHECKING:
    from lark import Lark

_local = threading.local()  # the reader of the parse that runs on a thread


def read(text: str, syntax: str, reader: Any) -> None:
    """Call `reader.on_x` for each x of the syntax in the text, children first; GrammarError names the place."""
    from lark.exceptions import UnexpectedInput, VisitError

    _local.reader = reader
    try:
        _parser(syntax, type(reader)).parse(text)
    except UnexpectedInput as error:
        raise _unexpected(text, error) from None
    except VisitError as error:
        raise error.orig_exc from None
    finally:
        del _local.reader


@functools.cache
def _parser(syntax: str, kind: type) -> Lark:
    """The parser; its tables take some milliseconds to make."""
    from lark import Lark, Transformer, v_args

    @v_args(inline=False)
    class Actions(Transformer[Any, Any]):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or not hasattr(kind, f"on_{name}"):
                raise AttributeError(name)
            return functools.partial(_act, f"on_{name}")

    return Lark(syntax, parser="lalr", lexer="contextual", transformer=Actions())


def _act(method: str, items: list[Any]) -> Any:
    return getattr(_local.reader, method)(items)


def _unexpected(text: str, error: Any) -> GrammarError:
    """Lark's error in our words."""
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return error_at(text, len(text.rstrip()), "the grammar ends too early")
    place = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    shown = text[place : place + 20].partition("\n")[0].strip()
    return error_at(text, place, f"{shown!r} cannot stand here" if shown else "a rule cannot end here")

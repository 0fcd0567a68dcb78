"""The place where chat templates run: jinja2's sandbox, with limits on time and on the size of every text.

Jinja's sandbox stops a template from reaching Python, not from looping for ever or from doubling a text until memory
ends. So every loop and macro calls `tick`, and every operation that can make a text long is checked.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 2.0  # of the processor; real templates take milliseconds
LONGEST = 64 << 20  # characters of any text; far above any real prompt
LARGEST_POWER = 1 << 16
LIST_METHODS = ("append", "pop")  # which change a list by no more than one


class GenerationTag(Extension):
    """`{% generation %}`: marks what the model writes, for training; its content is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        """The content, as a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """One environment for each template; used by any number of threads."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", GenerationTag])
        self._local = threading.local()

    def start(self) -> None:
        """Begin a rendering in this thread: its time starts now."""
        self._local.end = time.thread_time() + SECONDS

    def tick(self) -> str:
        """Called in every loop and macro."""
        if time.thread_time() > getattr(self._local, "end", float("inf")):
            raise TemplateError(f"it did not end within {SECONDS:g} seconds")
        return ""

    def join_texts(self, *parts: Any) -> str:
        """The `~` of templates, within bounds."""
        texts = [str(part) for part in parts]
        bound(sum(map(len, texts)))
        return "".join(texts)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Lists may be added to and taken from one by one, as templates written for other engines do."""
        return (isinstance(obj, list) and attr in LIST_METHODS) or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse what would make a text, list or number too large, before it is made."""
        if operator == "*":
            for value, times in ((left, right), (right, left)):
                if isinstance(value, (str, list, tuple)) and isinstance(times, int):
                    bound(len(value) * max(times, 0))
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            bound(len(left) + len(right))
        elif operator == "**" and not (abs(left) <= LARGEST_POWER and abs(right) <= LARGEST_POWER.bit_length()):
            raise TemplateError("it computes a power that is too large")
        elif operator == "%" and isinstance(left, str) and any(len(part) > 6 for part in _digits(left)):
            raise TemplateError("it pads a text by too much")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Limits().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree


class _Limits(NodeTransformer):
    """Puts `tick` into loops and macros, and `join_texts` in place of `~`."""

    def visit_For(self, node: nodes.For) -> Any:  # noqa: N802 - jinja2's way to name them
        """A loop."""
        return self._with_tick(node)

    def visit_Macro(self, node: nodes.Macro) -> Any:  # noqa: N802
        """A macro: it can call itself."""
        return self._with_tick(node)

    def visit_Concat(self, node: nodes.Concat) -> Any:  # noqa: N802
        """`a ~ b`."""
        self.generic_visit(node)
        return _call("join_texts", node.nodes, node.lineno)

    def _with_tick(self, node: Any) -> Any:
        self.generic_visit(node)
        node.body.insert(0, nodes.Output([_call("tick", [], node.lineno)], lineno=node.lineno))
        return node


def _call(name: str, args: list[Any], line: int) -> nodes.Call:
    """Call a method of the environment, which no name in a template can hide."""
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, args, [], None, None, lineno=line)


def bound(length: int) -> None:
    """Refuse a text, or a list, of so many parts."""
    if length > LONGEST:
        raise TemplateError(f"it makes a text of {length:,} characters; {LONGEST:,} are possible")


def _digits(text: str) -> list[str]:
    """The runs of digits of a text."""
    return "".join(c if c.isdigit() else " " for c in text).split()

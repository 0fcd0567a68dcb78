"""GBNF, as llama.cpp had it in 2023 and has it now, read by lark.

Beyond both: `_` in the names of rules, and a `|` that begins a line. Parsing is LALR(1) with the nodes made as the
text is read, so that nesting needs no stack of Python's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.analysis import finish
from llamakit.plugins.samplers.grammar.build import ANY, EMPTY, Builder, alt, chars, repeat, seq
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.errors import at as error_at
from llamakit.plugins.samplers.grammar.ir import MAX_CODEPOINT, Node, Ref, Text, Tokens
from llamakit.plugins.samplers.grammar.reading import read

from llamakit.options import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from lark import Token
    from llamakit.plugins.samplers.grammar.ir import Grammar

MOST_NESTED = 500
PARENTHESIS = re.compile(r'[()]|"(?:[^"\\]|\\[\s\S])*+(?:"|\Z)|\[(?:[^\]\\]|\\[\s\S])*+(?:\]|\Z)|#[^\r\n]*')
MOST_DIGITS = 9  # of a repetition's bound
# Names of terminals that begin with _ are not handed on. `::=` and `|` swallow the newlines behind them, `|` also those
# before it; within parentheses newlines mean nothing.
SYNTAX = r"""
start: _NL? (rule (_NL rule)* _NL?)?
rule: NAME _DEF alts
alts: seq (_OR seq)*
nalts: nseq (_OR nseq)*
seq: (_item | quant)*
nseq: (_item | quant | _NL)*
_item: string | cls | token | ref | any | group
group: "(" nalts ")"
string: STRING
cls: CLASS
token: TOKEN
ref: NAME
any: "."
quant: STAR | PLUS | OPT | REP
STAR: "*"
PLUS: "+"
OPT: "?"
REP: /\{[ \t]*[0-9]+[ \t]*(?:,[ \t]*(?:[0-9]+[ \t]*)?)?\}/
NAME: /[a-zA-Z0-9_-]+/
STRING: /"(?:[^"\\]|\\[\s\S])*+"/
CLASS: /\[(?:[^\]\\]|\\[\s\S])*+\]/
TOKEN: /!?<(?:\[[0-9]+\]|[^\[>][^>]*|)>/
_DEF: /::=(?:[ \t\r\n]++|#[^\r\n]*+)*+/
_OR.3: /(?:[ \t\r\n]++|#[^\r\n]*+)*+\|(?:[ \t\r\n]++|#[^\r\n]*+)*+/
_NL.2: /(?:[ \t]++|#[^\r\n]*+)*+[\r\n](?:[ \t\r\n]++|#[^\r\n]*+)*+/
%ignore /[ \t]+/
%ignore /#[^\r\n]*/
"""
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
HYPHEN = -ord("-")  # one that may make a range
ESCAPES_SHOWN = '\\n \\r \\t \\\\ \\" \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH exist'
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([\s\S]))")


def parse_gbnf(
    text: str, *, token_ids: Callable[[str], list[int]] | None = None, root: str = "root",
    warnings: list[str] | None = None,
) -> Grammar:  # fmt: skip
    """A grammar in GBNF that starts from the rule `root`.

    `token_ids` tokenises the text of token terminals such as <think>, with control tokens recognised. What is odd is
    added to `warnings`. GrammarError names the line and column of what is wrong.
    """
    _check_nesting(text)
    reader = _Reader(text, token_ids)
    read(text, SYNTAX, reader)
    return reader.grammar(root, warnings)


class _Reader:
    """Makes nodes while lark reads; `on_x` is called with what the rule x of the syntax consists of."""

    def __init__(self, text: str, token_ids: Callable[[str], list[int]] | None) -> None:
        self._text, self._token_ids = text, token_ids
        self._builder = Builder()
        self._refs: dict[str, Ref] = {}
        self._mentions: dict[str, Token] = {}  # the first place where a rule is named
        self._defined: set[str] = set()

    def grammar(self, root: str, warnings: list[str] | None) -> Grammar:
        """The whole, checked."""
        for name, token in self._mentions.items():
            if name not in self._defined:
                raise self._error(token, f"the rule {name!r} is used but not defined", nearest(name, self._defined))
        if root not in self._defined:
            known = ", ".join(sorted(self._defined)[:8])
            raise GrammarError(f"there is no rule {root!r}", found=f"there are: {known}" if known else "no rule at all")
        return finish(self._builder.grammar(self._refs[root]), warnings)

    def on_start(self, items: list[Any]) -> None:
        """The end of the text."""

    def on_rule(self, items: list[Any]) -> None:
        """A definition; a later one of the same name replaces it."""
        name, body = items
        self._builder.define(self._ref(name), body)
        self._defined.add(str(name))

    def on_alts(self, items: list[Any]) -> Node:
        """Alternatives."""
        return self._builder.shallow(alt(items), items, "alternatives", "")

    on_nalts = on_alts

    def on_seq(self, items: list[Any]) -> Node:
        """Items in a row, each followed by its repetitions."""
        made: list[Node] = []
        for item in items:
            if isinstance(item, tuple):  # (token, least, most)
                token, least, most = item
                if not made:
                    raise self._error(token, f"there is nothing before {str(token)!r} that it could repeat")
                made[-1] = self._builder.shallow(repeat(made[-1], least, most), [made[-1]], "repeated", "")
            else:
                made.append(item)
        return self._builder.shallow(seq(made), made, "sequence", "")

    on_nseq = on_seq

    def on_group(self, items: list[Any]) -> Node:
        """What parentheses hold."""
        node: Node = items[0]
        return node

    def on_quant(self, items: list[Any]) -> tuple[Token, int, int | None]:
        """A repetition's bounds."""
        token = items[0]
        known = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if str(token) in known:
            return token, *known[str(token)]
        low, comma, high = str(token)[1:-1].replace(" ", "").replace("\t", "").partition(",")
        if len(low) > MOST_DIGITS or len(high) > MOST_DIGITS:
            raise self._error(token, f"the repetition {str(token)[:40]} is too large")
        least, most = int(low), (int(high) if high else None if comma else int(low))
        if most is not None and most < least:
            raise self._error(token, f"the repetition {token} has its bounds the wrong way round")
        return token, least, most

    def on_ref(self, items: list[Any]) -> Node:
        """The name of a rule."""
        self._mentions.setdefault(str(items[0]), items[0])
        return self._ref(items[0])

    def on_any(self, items: list[Any]) -> Node:
        """Any character."""
        return ANY

    def on_string(self, items: list[Any]) -> Node:
        """A text in quotation marks."""
        value = "".join(map(chr, self._characters(items[0], str(items[0])[1:-1])))
        try:
            return Text(value.encode())
        except UnicodeEncodeError:
            raise self._error(items[0], "half of a surrogate pair is not a character") from None

    def on_cls(self, items: list[Any]) -> Node:
        """A class of characters. As in llama.cpp an empty one is the empty text."""
        token, inside = items[0], str(items[0])[1:-1]
        negated = inside.startswith("^")
        codes = self._characters(token, inside[negated:], marks=True)
        ranges: list[tuple[int, int]] = []
        i = 0
        while i < len(codes):
            low = abs(codes[i])
            if i + 2 < len(codes) and codes[i + 1] == HYPHEN:
                high = abs(codes[i + 2])
                if high < low:
                    raise self._error(token, f"the range {chr(low)}-{chr(high)} has its ends the wrong way round")
                i += 2
            else:
                high = low
            ranges.append((low, high))
            i += 1
        if not ranges:
            return EMPTY
        return chars(charset.negate(charset.normal(ranges)) if negated else ranges)

    def on_token(self, items: list[Any]) -> Node:
        """A token of the vocabulary: by number, or by a text that is one token."""
        text = str(items[0])
        negated, inside = text.startswith("!"), text.lstrip("!")[1:-1]
        if inside.startswith("["):
            if len(inside) > MOST_DIGITS + 2:
                raise self._error(items[0], f"the token {text[:40]} does not exist")
            return Tokens((int(inside[1:-1]),), negated)
        if self._token_ids is None:
            raise self._error(items[0], f"the token {text[:80]} needs the vocabulary of a model")
        ids = self._token_ids(f"<{inside}>")
        if len(ids) != 1:
            raise self._error(items[0], f"<{inside[:80]}> is not a single token of the model: it makes {len(ids)}")
        return Tokens(tuple(ids), negated)

    def _ref(self, name: Token) -> Ref:
        key = str(name)
        if key not in self._refs:
            self._refs[key] = self._builder.new_rule(key, f"line {name.line}, column {name.column}")
        return self._refs[key]

    def _characters(self, token: Token, text: str, *, marks: bool = False) -> list[int]:
        """Code points of a text with its escapes resolved; with `marks`, a plain hyphen is `HYPHEN`."""
        codes: list[int] = []
        at = 0
        for match in ESCAPE.finditer(text):
            codes += (HYPHEN if marks and c == "-" else ord(c) for c in text[at : match.start()])
            number = match[1] or match[2] or match[3]
            if number is not None:
                code = int(number, 16)
                if code > MAX_CODEPOINT:
                    raise self._error(token, f"{match[0]} is beyond the last character, U+10FFFF")
            elif match[4] in ESCAPES:
                code = ord(ESCAPES[match[4]])
            else:
                raise self._error(
                    token, f"there is no escape {match[0]!r}", '\\n \\r \\t \\\\ \\" \\[ \\] \\xHH \\uHHHH exist'
                )
            codes.append(code)
            at = match.end()
        codes += (HYPHEN if marks and c == "-" else ord(c) for c in text[at:])
        return codes

    def _error(self, token: Token, message: str, hint: str = "") -> GrammarError:
        return error_at(self._text, token.start_pos or 0, message, hint=hint)


def _check_nesting(text: str) -> None:
    """Refuse parentheses within parentheses beyond what anybody writes, before lark spends time on them."""
    depth = 0
    for match in PARENTHESIS.finditer(text):
        depth += (match[0] == "(") - (match[0] == ")")
        if depth > MOST_NESTED:
            raise error_at(text, match.start(), f"more than {MOST_NESTED} parentheses within one another")

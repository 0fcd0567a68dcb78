"""Grammars in the notation of lark, read by lark.

There is no lexer: a text is in the language if it is made of the terminals in some way, with ignored text at the start
and after each terminal. So keywords and names are not told apart, and priorities mean nothing. Parsing makes functions
that make nodes, since only at the end it is known what is ignored, and only a rule's own terminals have it behind them.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.analysis import finish
from llamakit.plugins.samplers.grammar.build import EMPTY, Builder, alt, chars, repeat, seq
from llamakit.plugins.samplers.grammar.build import text as text_node
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.errors import at as error_at
from llamakit.plugins.samplers.grammar.ir import MAX_CODEPOINT, Node, Ref, Tokens
from llamakit.plugins.samplers.grammar.lark_common import COMMON
from llamakit.plugins.samplers.grammar.reading import read
from llamakit.plugins.samplers.grammar.regex import parse_pattern

from llamakit.options import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from lark import Token
    from llamakit.plugins.samplers.grammar.ir import Grammar

    Make = Callable[[bool], Node]  # of a node; True: within a rule, where ignored text follows terminals

MOST_NESTED = 60  # parentheses; less than Python's stack and more than anybody writes
MOST_DIGITS = 9  # of a repetition's bound
# `|` swallows the newlines around it, a colon those behind it; within parentheses newlines mean nothing.
SYNTAX = r"""
start: _NL? (_item (_NL _item)* _NL?)?
_item: definition | ignore | import | imports | nothing | unknown
definition: (RULE | TERMINAL) PRIORITY? _COLON alts
ignore: _IGNORE alts
import: _IMPORT path (_ARROW (RULE | TERMINAL))?
imports: _IMPORT path "(" (RULE | TERMINAL) (_COMMA (RULE | TERMINAL))* ")"
path: RELATIVE? (RULE | TERMINAL) (DOT (RULE | TERMINAL))*
nothing: EMPTY_SETTINGS
unknown: DIRECTIVE
alts: alias (_OR alias)*
nalts: nalias (_OR nalias)*
alias: seq (_ARROW (RULE | TERMINAL))?
nalias: nseq (_ARROW (RULE | TERMINAL) _NL?)?
seq: (_part | quant)*
nseq: (_part | quant | _NL)*
_part: group | maybe | string | range | pattern | ref | token | call
group: "(" nalts ")"
maybe: "[" nalts "]"
string: STRING
range: STRING _TO STRING
pattern: PATTERN
ref: RULE | TERMINAL
token: TOKEN
call: CALL
quant: STAR | PLUS | OPT | TIMES
STAR: "*"
PLUS: "+"
OPT: /\?(?![a-z_])/
TIMES: /~[ \t]*[0-9]+(?:[ \t]*\.\.[ \t]*[0-9]+)?/
PRIORITY: /\.[ \t]*-?[0-9]+/
RULE: /[!?]*_?[a-z][_a-z0-9]*/
TERMINAL: /_?[A-Z][_A-Z0-9]*/
CALL.2: /[!?]*_?[a-zA-Z][_a-zA-Z0-9]*\{/
STRING: /"(?:[^"\\\r\n]|\\[^\r\n])*+"i?/
PATTERN: /\/(?![\/*])(?:[^\/\\\r\n]|\\[^\r\n])++\/[a-z]*/
TOKEN: /<(?:\[[0-9]+\]|[^\[>\s][^>\r\n]*)>/
RELATIVE: "."
DOT: "."
EMPTY_SETTINGS: /%llguidance[ \t]*\{[ \t]*\}/
DIRECTIVE: /%[a-z_]*[^\r\n]*/
_IGNORE.2: "%ignore"
_IMPORT.2: "%import"
_COMMA: ","
_TO: ".."
_ARROW: "->"
_COLON: /:(?:[ \t\r\n]++|(?:\/\/|#)[^\r\n]*+)*+/
_OR.3: /(?:[ \t\r\n]++|(?:\/\/|#)[^\r\n]*+)*+\|(?:[ \t\r\n]++|(?:\/\/|#)[^\r\n]*+)*+/
_NL.2: /(?:[ \t]++|(?:\/\/|#)[^\r\n]*+)*+[\r\n](?:[ \t\r\n]++|(?:\/\/|#)[^\r\n]*+)*+/
%ignore /[ \t]+/
%ignore /(?:\/\/|#)[^\r\n]*/
%ignore /\\[ \t]*\r?\n/
"""
NESTING = re.compile(r'[()\[\]]|"(?:[^"\\\r\n]|\\[^\r\n])*+"|/(?![/*])(?:[^/\\\r\n]|\\[^\r\n])++/|(?://|#)[^\r\n]*|<\[')
ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "f": "\f", "\\": "\\", '"': '"', "/": "/"}
ESCAPES_SHOWN = '\\n \\r \\t \\f \\\\ \\" \\xHH \\uHHHH \\UHHHHHHHH exist'
NOT_NEWLINE = charset.negate(((0x0A, 0x0A),))


def parse_lark(
    text: str, *, token_ids: Callable[[str], list[int]] | None = None, start: str = "start",
    warnings: list[str] | None = None,
) -> Grammar:  # fmt: skip
    """A grammar in lark's notation that starts from the rule `start`.

    `token_ids` tokenises the text of tokens such as <think>. What is odd is added to `warnings`. GrammarError names the
    line and column of what is wrong or not possible: templates, other imports than `common`, `%declare`, `%override`.
    """
    _check_nesting(text)
    reader = _Reader(text, token_ids)
    read(text, SYNTAX, reader)
    return reader.grammar(start, warnings)


class _Reader:
    """Collects definitions while lark reads; `on_x` is called with what the rule x of the syntax consists of."""

    def __init__(self, text: str, token_ids: Callable[[str], list[int]] | None) -> None:
        self._text, self._token_ids = text, token_ids
        self._builder = Builder()
        self._bodies: dict[str, Make] = {}  # of rules and terminals
        self._refs: dict[str, Ref] = {}
        self._places: dict[str, Token] = {}
        self._mentions: dict[str, tuple[Token, bool]] = {}  # first: the place, and whether in a rule
        self._ignored: list[Make] = []
        self._rest: Node = EMPTY  # the ignored text after a terminal

    def grammar(self, start: str, warnings: list[str] | None) -> Grammar:
        """The whole, checked."""
        if start not in self._bodies:
            known = ", ".join(sorted(self._bodies)[:8])
            raise GrammarError(
                f"there is no rule {start!r}", found=f"there are: {known}" if known else "no rule at all"
            )
        root = self._builder.new_rule("root", "")
        for name, token in self._places.items():
            self._refs[name] = self._builder.new_rule(name, f"line {token.line}, column {token.column}")
        if self._ignored:
            self._rest = self._builder.new_rule("ignored", "%ignore")
            body = repeat(alt([make(False) for make in self._ignored]), 0, None)
            self._builder.define(self._rest, body)
        for name, make in self._bodies.items():
            self._builder.define(self._refs[name], make(_is_rule(name)))
        self._builder.define(root, seq([self._rest, self._refs[start]]))
        return finish(self._builder.grammar(root), warnings)

    # -- statements -----------------------------------------------------------------------------------------------

    def on_start(self, items: list[Any]) -> None:
        """The end of the text."""

    def on_definition(self, items: list[Any]) -> None:
        """A rule or a terminal."""
        name, make = items[0], items[-1]
        self._define(name, _bare(name), make)

    def on_ignore(self, items: list[Any]) -> None:
        """What may stand between terminals."""
        self._ignored.append(items[0])

    def on_import(self, items: list[Any]) -> None:
        """A terminal of `common`, under a name of its own if one follows."""
        parts = items[0]
        self._import(parts[:-1], parts[-1], items[1] if len(items) > 1 else parts[-1])

    def on_imports(self, items: list[Any]) -> None:
        """Several of them."""
        for name in items[1:]:
            self._import(items[0], name, name)

    def on_path(self, items: list[Any]) -> list[Token]:
        """The names between the dots."""
        if items[0].type == "RELATIVE":
            raise self._error(items[0], "other files cannot be imported", "%import common.NAME")
        return [item for item in items if item.type != "DOT"]

    def on_nothing(self, items: list[Any]) -> None:
        """`%llguidance {}`, the usual first line of a grammar for it."""

    def on_unknown(self, items: list[Any]) -> None:
        """Any other statement."""
        word = "%" + str(items[0])[1:].partition(" ")[0][:40]
        raise self._error(items[0], f"{word} is not possible", "%ignore and %import common.NAME are")

    def _import(self, path: list[Token], name: Token, called: Token) -> None:
        if [str(part) for part in path] != ["common"]:
            raise self._error(path[0] if path else name, "only `common` can be imported", "%import common.NAME")
        if str(name) not in COMMON:
            raise self._error(name, f"`common` has no {name}", nearest(str(name), COMMON))
        node = parse_pattern(COMMON[str(name)], search=False)
        self._define(called, _bare(called), functools.partial(self._terminal, node))

    def _define(self, token: Token, name: str, make: Make) -> None:
        if name in self._bodies:
            raise self._error(token, f"{name!r} is defined twice", f"first in line {self._places[name].line}")
        self._bodies[name] = make
        self._places[name] = token

    # -- expressions ----------------------------------------------------------------------------------------------

    def on_alts(self, items: list[Any]) -> Make:
        """Alternatives."""

        def make(in_rule: bool) -> Node:
            made = [item(in_rule) for item in items]
            return self._builder.shallow(alt(made), made, "alternatives", "")

        return make if len(items) > 1 else items[0]

    on_nalts = on_alts

    def on_alias(self, items: list[Any]) -> Make:
        """One of them; its name is for trees, which are not made here."""
        make: Make = items[0]
        return make

    on_nalias = on_alias

    def on_seq(self, items: list[Any]) -> Make:
        """Parts in a row, each with its repetition."""
        parts: list[tuple[Make, tuple[int, int | None] | None]] = []
        for item in items:
            if not isinstance(item, tuple):
                parts.append((item, None))
                continue
            token, least, most = item
            if not parts or parts[-1][1] is not None:
                raise self._error(token, f"there is nothing before {str(token)!r} that it could repeat")
            parts[-1] = (parts[-1][0], (least, most))

        def make(in_rule: bool) -> Node:
            made = []
            for part, bounds in parts:
                node = part(in_rule)
                made.append(node if bounds is None else self._builder.shallow(repeat(node, *bounds), [node], "r", ""))
            return self._builder.shallow(seq(made), made, "sequence", "")

        return make

    on_nseq = on_seq

    def on_quant(self, items: list[Any]) -> tuple[Token, int, int | None]:
        """A repetition's bounds."""
        token = items[0]
        known = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if str(token) in known:
            return token, *known[str(token)]
        low, dots, high = str(token)[1:].replace(" ", "").replace("\t", "").partition("..")
        if len(low) > MOST_DIGITS or len(high) > MOST_DIGITS:
            raise self._error(token, f"the repetition {str(token)[:40]} is too large")
        least, most = int(low), int(high if dots else low)
        if most < least:
            raise self._error(token, f"the repetition {token} has its bounds the wrong way round")
        return token, least, most

    def on_group(self, items: list[Any]) -> Make:
        """What parentheses hold."""
        make: Make = items[0]
        return make

    def on_maybe(self, items: list[Any]) -> Make:
        """What brackets hold: it may be left out."""
        inner: Make = items[0]
        return lambda in_rule: repeat(inner(in_rule), 0, 1)

    def on_ref(self, items: list[Any]) -> Make:
        """The name of a rule or terminal."""
        token, name = items[0], _bare(items[0])

        def make(in_rule: bool) -> Node:
            if name not in self._refs:
                what = "rule" if _is_rule(name) else "terminal"
                raise self._error(
                    token, f"the {what} {name!r} is used but not defined", nearest(name, [*self._bodies, *COMMON])
                )
            if _is_rule(name):
                if not in_rule:
                    raise self._error(token, f"a terminal cannot hold the rule {name!r}", "write its name in capitals")
                return self._refs[name]
            return self._terminal(self._refs[name], in_rule)

        return make

    def on_string(self, items: list[Any]) -> Make:
        """A text in quotation marks, an i behind it for capitals and small letters alike."""
        token = items[0]
        any_case, value = str(token).endswith("i"), self._value(token)
        cased = [chars(charset.either_case(((ord(c), ord(c)),))) for c in value] if any_case else []
        node = seq(cased) if any_case else text_node(value)
        return functools.partial(self._terminal, node)

    def on_range(self, items: list[Any]) -> Make:
        """One character between two."""
        low, high = self._value(items[0]), self._value(items[1])
        if len(low) != 1 or len(high) != 1 or high < low:
            raise self._error(items[0], "a range goes from one character to a later one")
        return functools.partial(self._terminal, chars([(ord(low), ord(high))]))

    def on_pattern(self, items: list[Any]) -> Make:
        """A regular expression with its flags."""
        token = items[0]
        pattern, _, flags = str(token)[1:].rpartition("/")
        for flag in flags:
            if flag not in "imsu":
                raise self._error(token, f"the flag {flag!r} of this expression is not possible", "i, m, s and u are")
        try:
            dot = charset.EVERYTHING if "s" in flags else NOT_NEWLINE
            node = parse_pattern(pattern, search=False, dot=dot, any_case="i" in flags)
        except GrammarError as error:
            place = (token.start_pos or 0) + max(error.column, 1)
            raise error_at(self._text, place, error.message.partition(": ")[2] or error.message) from None
        return functools.partial(self._terminal, node)

    def on_token(self, items: list[Any]) -> Make:
        """A token of the vocabulary: by number, or by a text that is one token."""
        token, inside = items[0], str(items[0])[1:-1]
        if inside.startswith("["):
            if len(inside) > MOST_DIGITS + 2:
                raise self._error(token, f"the token {str(token)[:40]} does not exist")
            return functools.partial(self._terminal, Tokens((int(inside[1:-1]),), False))
        if self._token_ids is None:
            raise self._error(token, f"the token {str(token)[:80]} needs the vocabulary of a model")
        ids = self._token_ids(str(token))
        if len(ids) != 1:
            raise self._error(token, f"{str(token)[:80]} is not a single token of the model: it makes {len(ids)}")
        return functools.partial(self._terminal, Tokens(tuple(ids), False))

    def on_call(self, items: list[Any]) -> Make:
        """A template."""
        raise self._error(items[0], "templates are not possible", "write a rule for each use of it")

    def _terminal(self, node: Node, in_rule: bool) -> Node:
        """A terminal, with the ignored text behind it where it is a rule's."""
        return seq([node, self._rest]) if in_rule else node

    def _value(self, token: Token) -> str:
        """The text between quotation marks."""
        quoted = str(token).removesuffix("i")[1:-1]

        def resolved(match: re.Match[str]) -> str:
            number = match[1] or match[2] or match[3]
            if number is not None:
                if int(number, 16) > MAX_CODEPOINT:
                    raise self._error(token, f"{match[0]} is beyond the last character, U+10FFFF")
                return chr(int(number, 16))
            if match[4] not in ESCAPES:
                raise self._error(token, f"there is no escape {match[0]!r}", ESCAPES_SHOWN)
            return ESCAPES[match[4]]

        value = ESCAPE.sub(resolved, quoted)
        if any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise self._error(token, "half of a surrogate pair is not a character")
        return value

    def _error(self, token: Token, message: str, hint: str = "") -> GrammarError:
        return error_at(self._text, token.start_pos or 0, message, hint=hint)


def _bare(token: Token) -> str:
    """A name without the marks that are for trees."""
    return str(token).lstrip("!?")


def _is_rule(name: str) -> bool:
    return name.lstrip("_")[:1].islower()


def _check_nesting(text: str) -> None:
    """Refuse parentheses within parentheses beyond what anybody writes."""
    depth = 0
    for match in NESTING.finditer(text):
        depth += (match[0] in ("(", "[")) - (match[0] in (")", "]"))
        if depth > MOST_NESTED:
            raise error_at(text, match.start(), f"more than {MOST_NESTED} parentheses within one another")

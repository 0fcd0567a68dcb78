"""Regular expressions as JSON Schema and ECMAScript write them, without what is not regular (references, look-around).

Inside a text every construct stands for characters; anchors are allowed at the ends of the whole expression or of its
alternatives, where they say that nothing may come before or after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.build import EMPTY, Builder, alt, chars, repeat, seq
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.errors import at as error_at
from llamakit.plugins.samplers.grammar.ir import MAX_CODEPOINT, Grammar, Node, Text

if TYPE_CHECKING:
    from llamakit.plugins.samplers.grammar.charset import Ranges

MOST_NESTED = 40  # groups within groups: less than `ir.MAX_DEPTH`, since a group is two nodes
MOST_CHARACTERS = 100_000
MOST_TURNS = 1 << 20  # of a bounded repetition
LETTERS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}
CLASSES: dict[str, Ranges] = {"d": charset.DIGITS, "w": charset.WORD, "s": charset.SPACE}
CLASSES |= {name.upper(): charset.negate(ranges) for name, ranges in CLASSES.items()}
NOT_LINE_END = charset.negate(charset.LINE_ENDS)
ANYTHING = repeat(chars(charset.EVERYTHING), 0, None)


def parse_regex(pattern: str) -> Grammar:
    """The texts that match the expression as a whole."""
    builder = Builder()
    root = builder.new_rule("root", "the expression", parse_pattern(pattern, search=False))
    return builder.grammar(root)


def parse_pattern(pattern: str, *, search: bool, dot: Ranges = NOT_LINE_END, any_case: bool = False) -> Node:
    """A node for an expression; `dot` is what a . stands for, `any_case` takes capitals and small letters alike.

    With `search` it may match anywhere in the text, unless anchored, as `pattern` does.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise GrammarError(f"the expression has {len(pattern):,} characters; {MOST_CHARACTERS:,} are possible")
    return _Parser(pattern, search, dot, any_case).whole()


class _Parser:
    """Reads an expression from left to right; groups are kept on a stack of its own."""

    def __init__(self, text: str, search: bool, dot: Ranges, any_case: bool) -> None:
        self.text, self.search, self.dot, self.any_case, self.i = text, search, dot, any_case, 0

    def whole(self) -> Node:
        """The whole expression, with what may stand around each of its outermost alternatives."""
        ways = [self._around(*way) for way in self._alternatives(0)]
        if self.i < len(self.text):
            raise self._error("there is no ( before this )")
        return alt(ways)

    def _around(self, node: Node, begins: bool, ends: bool) -> Node:
        if not self.search:
            return node
        return seq([EMPTY if begins else ANYTHING, node, EMPTY if ends else ANYTHING])

    def _alternatives(self, depth: int) -> list[tuple[Node, bool, bool]]:
        """The ways of a group: each with whether it is anchored at its beginning and at its end."""
        ways = [self._sequence(depth)]
        while self._next() == "|":
            self.i += 1
            ways.append(self._sequence(depth))
        return ways

    def _sequence(self, depth: int) -> tuple[Node, bool, bool]:
        items: list[Node] = []
        begins = ends = False
        while self.i < len(self.text) and self.text[self.i] not in "|)":
            c = self.text[self.i]
            if c == "^":
                if items or depth > 1:
                    raise self._error("^ can only stand at the beginning")
                begins = True
                self.i += 1
            elif c == "$":
                self.i += 1
                if self._next() not in ("", "|", ")") or depth > 1:
                    raise self._error("$ can only stand at the end")
                ends = True
            else:
                items.append(self._repeated(self._item(depth)))
        return seq(items), begins, ends

    def _repeated(self, node: Node) -> Node:
        start = self.i
        bounds = self._bounds()
        if bounds is None:
            return node
        if self._next() == "?":  # lazy: the same texts
            self.i += 1
        elif self._next() == "+":
            raise self._error("possessive repetitions are not possible")
        if self._next() in ("*", "+", "?") or (self._next() == "{" and self._counts()):
            raise self._error("a repetition cannot be repeated without parentheses")
        least, most = bounds
        if most is not None and most < least:
            self.i = start
            raise self._error("the repetition has its bounds the wrong way round")
        return repeat(node, least, most)

    def _bounds(self) -> tuple[int, int | None] | None:
        c = self._next()
        if c in ("*", "+", "?"):
            self.i += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        counts = self._counts() if c == "{" else None
        if counts is None:
            return None
        self.i = counts[2]
        return counts[0], counts[1]

    def _counts(self) -> tuple[int, int | None, int] | None:
        """Bounds in braces and where they end; None if these braces are plain characters."""
        end = self.text.find("}", self.i, self.i + 24)
        low, comma, high = self.text[self.i + 1 : end].partition(",")
        if end < 0 or not low.isascii() or not low.isdigit() or (high and not (high.isascii() and high.isdigit())):
            return None
        least, most = int(low), int(high) if high else None if comma else int(low)
        if max(least, most or 0) > MOST_TURNS:
            raise self._error(f"a repetition has at most {MOST_TURNS:,} turns")
        return least, most, end + 1

    def _item(self, depth: int) -> Node:
        c = self.text[self.i]
        if c == "(":
            return self._group(depth)
        if c == "[":
            return chars(self._class())
        self.i += 1
        if c == ".":
            return chars(self.dot)
        if c in "*+?":
            self.i -= 1
            raise self._error(f"there is nothing before {c!r} that it could repeat")
        if c == "\\":
            return chars(self._cased(self._escape(in_class=False)))
        if self.any_case:
            return chars(self._cased(((ord(c), ord(c)),)))
        return Text(self._encoded(c))

    def _cased(self, ranges: Ranges) -> Ranges:
        """With the other case, if asked for; sets such as \\w, which are more than one range, stay as they are."""
        return charset.either_case(ranges) if self.any_case and len(ranges) == 1 else ranges

    def _group(self, depth: int) -> Node:
        if depth >= MOST_NESTED:
            raise self._error(f"more than {MOST_NESTED} groups within one another")
        start = self.i
        self.i += 1
        if self._next() == "?":
            self._group_kind()
        ways = self._alternatives(depth + 1)
        if self._next() != ")":
            self.i = start
            raise self._error("this ( is not closed")
        self.i += 1
        inner = alt([node for node, _, _ in ways])
        anchored = {(begins, ends) for _, begins, ends in ways if begins or ends}
        whole = depth == 0 and start == 0 and self.i == len(self.text)
        if anchored and self.search and not whole:
            raise self._error("an anchor within a group is possible only if the group is the whole expression")
        if anchored and self.search:
            inner = alt([self._around(*way) for way in ways])
            self.search = False
        return inner

    def _group_kind(self) -> None:
        """What follows `(?`: only groups that do nothing but group."""
        rest = self.text[self.i : self.i + 3]
        if rest.startswith("?:"):
            self.i += 2
        elif rest.startswith("?<") and rest[2:] not in ("=", "!"):
            end = self.text.find(">", self.i)
            if end < 0:
                raise self._error("the name of this group does not end")
            self.i = end + 1
        elif rest.startswith("?P<"):
            self.i = self.text.find(">", self.i) + 1 or len(self.text)
        else:
            raise self._error("look-around and flags are not possible")

    def _class(self) -> Ranges:
        start = self.i
        self.i += 1
        negated = self._next() == "^"
        self.i += negated
        ranges: list[tuple[int, int]] = []
        while self._next() != "]":
            if not self._next():
                self.i = start
                raise self._error("this [ is not closed")
            low = self._class_item()
            if self._next() == "-" and self.text[self.i + 1 : self.i + 2] not in ("]", "") and len(low) == 1:
                self.i += 1
                high = self._class_item()
                if len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise self._error("this range has no ends, or has them the wrong way round")
                low = ((low[0][0], high[0][0]),)
            ranges += self._cased(low)
        self.i += 1
        found = charset.normal(ranges)
        return charset.negate(found) if negated else found

    def _class_item(self) -> Ranges:
        c = self.text[self.i]
        self.i += 1
        if c == "\\":
            return self._escape(in_class=True)
        return ((ord(c), ord(c)),)

    def _escape(self, *, in_class: bool) -> Ranges:
        """What a backslash, already read, and what follows stand for."""
        c = self._next()
        self.i += 1
        if c in CLASSES and c:
            return CLASSES[c]
        if c in LETTERS and c:
            return ((LETTERS[c], LETTERS[c]),)
        if c == "b" and in_class:
            return ((8, 8),)
        if c in ("p", "P") and self._next() == "{":
            return self._property(negated=c == "P")
        if c in ("x", "u"):
            return self._hex(2 if c == "x" else 4)
        if c == "c" and self._next().isalpha() and self._next().isascii():
            self.i += 1
            code = ord(self.text[self.i - 1]) % 32
            return ((code, code),)
        if not c or c.isalnum():
            self.i -= 1
            raise self._error(f"\\{c} is not possible" if c else "the expression ends with a backslash")
        return ((ord(c), ord(c)),)

    def _hex(self, n_digit: int) -> Ranges:
        if n_digit == 4 and self._next() == "{":
            end = self.text.find("}", self.i)
            digits, after = self.text[self.i + 1 : max(end, 0)], end + 1
        else:
            digits, after = self.text[self.i : self.i + n_digit], self.i + n_digit
            if len(digits) < n_digit:
                digits = ""
        if not digits or len(digits) > 6 or any(d not in "0123456789abcdefABCDEF" for d in digits):
            raise self._error("this escape has no hexadecimal number")
        code = int(digits, 16)
        if code > MAX_CODEPOINT:
            raise self._error("there is no such character")
        self.i = after
        return ((code, code),)

    def _property(self, *, negated: bool) -> Ranges:
        end = self.text.find("}", self.i)
        name = self.text[self.i + 1 : max(end, 0)]
        found = charset.category(name.rpartition("=")[2])
        if end < 0 or found is None:
            raise self._error(f"there is no property {name[:40]!r} of characters")
        self.i = end + 1
        return charset.negate(found) if negated else found

    def _next(self) -> str:
        return self.text[self.i : self.i + 1]

    def _encoded(self, c: str) -> bytes:
        try:
            return c.encode()
        except UnicodeEncodeError:
            raise self._error("half of a surrogate pair is not a character") from None

    def _error(self, message: str) -> GrammarError:
        return error_at(self.text, self.i, message, kind="expression")

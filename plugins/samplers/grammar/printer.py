"""The intermediate form as GBNF that today's llama.cpp reads too.

What GBNF has no words for is put in others: what matches nothing is left out, automata become rules that end with one
another, names keep letters, digits and hyphens, and counts of more than nine digits are split.
"""

from __future__ import annotations

import re

from llamakit.plugins.samplers.grammar import charset
from llamakit.plugins.samplers.grammar.analysis import productive, reachable
from llamakit.plugins.samplers.grammar.automata import DFA, trimmed
from llamakit.plugins.samplers.grammar.build import EMPTY, NOTHING, alt, chars, repeat, seq
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import (
    Alt,
    Automaton,
    Chars,
    Grammar,
    Node,
    Ref,
    Repeat,
    Rule,
    Seq,
    Text,
    Tokens,
)

LARGEST = 999_999_999  # of a count as `gbnf` reads it
DEEPEST = 6  # states of an automaton within one another; deeper ones get rules of their own
NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9-]+")
SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x5C: "\\\\"}


def to_gbnf(grammar: Grammar) -> str:
    """The grammar as text, `root` first. GrammarError where it matches nothing, or cannot be said in GBNF."""
    return _Printer(_pruned(grammar)).text()


def _pruned(grammar: Grammar) -> Grammar:
    """The same texts without anything that matches nothing."""
    good = productive(grammar)
    if not good[grammar.root]:
        raise GrammarError(f"the rule {grammar.rules[grammar.root].name!r} matches no text at all")

    def prune(node: Node) -> Node:
        match node:
            case Ref(number):
                return node if good[number] else NOTHING
            case Seq(items):
                return seq([prune(item) for item in items])
            case Alt(items):
                return alt([prune(item) for item in items])
            case Repeat(item, least, most):
                return repeat(prune(item), least, most)
            case Automaton(states):
                dfa = DFA()
                for state in states:
                    dfa.edges.append(list(state.edges))
                    dfa.accepting.append(state.accepting)
                dfa = trimmed(dfa)
                return dfa.node() if any(dfa.accepting) else NOTHING
        return node

    rules = tuple(
        Rule(rule.name, prune(rule.body) if good[number] else EMPTY, rule.where)
        for number, rule in enumerate(grammar.rules)
    )
    return reachable(Grammar(rules, grammar.root))


class _Printer:
    """Writes the rules in the order in which they are first named."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._taken = {"root"}
        self._names: dict[int, str] = {grammar.root: "root"}
        self._automata: dict[Automaton, str] = {}
        self._bodies: dict[str, str] = {}

    def text(self) -> str:
        """All rules."""
        done = 0
        while done < len(self._names):
            number = list(self._names)[done]
            name = self._names[number]
            self._bodies[name] = ""  # keeps its place before the automata that it names
            self._bodies[name] = self._write(self._grammar.rules[number].body)
            done += 1
        return "".join(f"{name} ::= {body}\n" for name, body in self._bodies.items())

    def _name(self, wanted: str) -> str:
        """A name of letters, digits and hyphens that no other rule has."""
        clean = NOT_IN_NAMES.sub("-", wanted).strip("-") or "rule"
        name, n = clean, 1
        while name in self._taken:
            n += 1
            name = f"{clean}-{n}"
        self._taken.add(name)
        return name

    def _write(self, node: Node, *, within: bool = False) -> str:
        """A node; `within`: where something stands beside it. Trees are at most `ir.MAX_DEPTH` deep."""
        match node:
            case Text(data):
                return _literal(data.decode())
            case Chars(ranges):
                return _class(ranges)
            case Tokens(ids, negated):
                return _tokens(ids, negated, within)
            case Ref(number):
                if number not in self._names:
                    self._names[number] = self._name(self._grammar.rules[number].name)
                return self._names[number]
            case Seq(items):
                shown = " ".join(self._write(item, within=True) for item in items) or '""'
                return f"({shown})" if within and len(items) > 1 else shown
            case Alt(items):
                shown = " | ".join(self._write(item) for item in items)
                return f"({shown})" if within and len(items) > 1 else shown
            case Repeat(item, least, most):
                inner = self._write(item, within=True)
                if isinstance(item, Repeat):
                    inner = f"({inner})"
                return _counted(inner, least, most, within)
            case Automaton():
                if node not in self._automata:
                    self._automata[node] = _States(self, node).name
                return self._automata[node]


class _States:
    """The rules of an automaton: what is left to read from a state on."""

    def __init__(self, printer: _Printer, node: Automaton) -> None:
        self._printer, self._node = printer, node
        self.name = printer._name("automaton")
        users = [0] * len(node.states)
        for number, state in enumerate(node.states):
            for target in {edge[2] for edge in state.edges} - {number}:
                users[target] += 1
        self._users = users
        self._names: dict[int, str] = {0: self.name}
        done = 0
        while done < len(self._names):
            number, name = list(self._names.items())[done]
            printer._bodies[name] = self._rest(number, 0)
            done += 1

    def _rest(self, number: int, depth: int) -> str:
        """Alternatives of what may follow in a state: first what leads to itself, then what leads elsewhere."""
        state = self._node.states[number]
        by_target: dict[int, list[tuple[int, int]]] = {}
        for lo, hi, target in state.edges:
            by_target.setdefault(target, []).append((lo, hi))
        loop = by_target.pop(number, None)
        ways = [_joined(_class(chars(r).ranges), self._there(target, depth)) for target, r in by_target.items()]
        if loop is None:
            return " | ".join([*ways, '""'] if state.accepting else ways)
        again = _class(chars(loop).ranges) + "*"
        if not ways:
            return again
        rest = " | ".join(ways)
        if state.accepting:
            return f"{again} ({rest})?"
        return f"{again} ({rest})" if len(ways) > 1 else f"{again} {rest}"

    def _there(self, number: int, depth: int) -> str:
        """What follows in another state: written out where it is used once, else its name."""
        state = self._node.states[number]
        if not state.edges:
            return ""
        if number and self._users[number] == 1 and depth < DEEPEST and number not in self._names:
            rest = self._rest(number, depth + 1)
            return f"({rest})" if " | " in rest else rest
        if number not in self._names:
            self._names[number] = self._printer._name(f"{self.name}-{len(self._names)}")
        return self._names[number]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _counted(inner: str, least: int, most: int | None, within: bool) -> str:
    """Something so many times; counts beyond `LARGEST` are the sum of several."""
    parts = []
    while least > LARGEST:
        parts.append(f"{inner}{{{LARGEST}}}")
        least -= LARGEST
        most = None if most is None else most - LARGEST
    if most is None:
        parts.append(inner + {0: "*", 1: "+"}.get(least, f"{{{least},}}"))
    else:
        first = min(most, LARGEST)
        parts.append(inner + ("?" if (least, first) == (0, 1) else _bounds(least, first)))
        most -= first
        while most > 0:
            parts.append(inner + _bounds(0, min(most, LARGEST)))
            most -= LARGEST
    shown = " ".join(parts)
    return f"({shown})" if within and len(parts) > 1 else shown


def _bounds(least: int, most: int) -> str:
    return f"{{{least}}}" if least == most else f"{{{least},{most}}}"


def _tokens(ids: tuple[int, ...], negated: bool, within: bool) -> str:
    if negated and len(ids) != 1:
        raise GrammarError("GBNF has no words for any token but one of several")
    if not ids:
        raise GrammarError("GBNF has no words for a token of an empty list")
    shown = " | ".join(f"{'!' if negated else ''}<[{number}]>" for number in ids)
    return f"({shown})" if within and len(ids) > 1 else shown


def _literal(text: str) -> str:
    return '"' + "".join('\\"' if c == '"' else _shown(ord(c)) for c in text) + '"'


def _class(ranges: charset.Ranges) -> str:
    """A class of characters; negated where that is shorter."""
    if ranges == charset.EVERYTHING:
        return "."
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _literal(chr(ranges[0][0]))
    others = charset.negate(ranges)
    if 0 < len(others) < len(ranges):
        return "[^" + in_class(others) + "]"
    return "[" + in_class(ranges) + "]"


def in_class(ranges: charset.Ranges) -> str:
    """What stands within the brackets of a class."""
    shown = []
    for lo, hi in ranges:
        shown.append(_member(lo))
        if hi > lo:
            shown.append(("-" if hi > lo + 1 else "") + _member(hi))
    return "".join(shown)


def _member(code: int) -> str:
    if code in (0x5B, 0x5D):
        return "\\" + chr(code)
    return f"\\x{code:02X}" if code in (0x2D, 0x5E) else _shown(code)


def _shown(code: int) -> str:
    """A character, or the escape of one that cannot be seen."""
    if code in SHORT:
        return SHORT[code]
    if chr(code).isprintable():
        return chr(code)
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"

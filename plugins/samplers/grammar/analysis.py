"""What is true of a grammar as a whole: which rules may be empty, which begin with themselves, which are never used."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from llamakit.plugins.samplers.grammar.build import EMPTY, NOTHING, alt, is_leaf, repeat, seq, walk
from llamakit.plugins.samplers.grammar.errors import GrammarError
from llamakit.plugins.samplers.grammar.ir import Alt, Automaton, Chars, Grammar, Node, Ref, Repeat, Rule, Seq, Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def finish(grammar: Grammar, warnings: list[str] | None = None) -> Grammar:
    """The grammar as it can be run: recursion on the left rewritten, rules that are never reached left out.

    GrammarError for what matches nothing, and for recursion on the left that cannot be rewritten, with its cycle.
    What is odd but possible is added to `warnings`.
    """
    written = grammar
    grammar = without_left_recursion(grammar)
    good = productive(grammar)
    if not good[grammar.root]:
        raise GrammarError(f"the rule {grammar.rules[grammar.root].name!r} matches no text at all")
    if warnings is not None:
        unused = set(unreachable(grammar))
        for number, rule in enumerate(grammar.rules):
            place = f"{rule.name!r} ({rule.where})" if rule.where else repr(rule.name)
            if rule.name in unused:
                warnings.append(f"the rule {place} is never used")
            elif not good[number]:
                warnings.append(f"the rule {place} matches no text at all")
            if rule.body is not written.rules[number].body:
                warnings.append(f"the rule {place} begins with itself; it was rewritten as a repetition")
    return reachable(grammar)


def reachable(grammar: Grammar) -> Grammar:
    """Without the rules that the root never comes to."""
    seen, left = {grammar.root}, [grammar.root]
    while left:
        for node in walk(grammar.rules[left.pop()].body):
            if isinstance(node, Ref) and node.rule not in seen:
                seen.add(node.rule)
                left.append(node.rule)
    if len(seen) == len(grammar.rules):
        return grammar
    number = {old: new for new, old in enumerate(sorted(seen))}
    rules = [grammar.rules[old] for old in sorted(seen)]
    moved = tuple(Rule(r.name, replace_refs(r.body, lambda ref: Ref(number[ref.rule])), r.where) for r in rules)
    return Grammar(moved, number[grammar.root])


def unreachable(grammar: Grammar) -> list[str]:
    """Names of the rules that the root never comes to."""
    used = {rule.name for rule in reachable(grammar).rules}
    return [rule.name for rule in grammar.rules if rule.name not in used]


def replace_refs(node: Node, change: Callable[[Ref], Node]) -> Node:
    """The same tree with other references. Trees are at most `ir.MAX_DEPTH` deep."""
    if isinstance(node, Ref):
        return change(node)
    if isinstance(node, Seq):
        return Seq(tuple(replace_refs(item, change) for item in node.items))
    if isinstance(node, Alt):
        return Alt(tuple(replace_refs(item, change) for item in node.items))
    if isinstance(node, Repeat):
        return Repeat(replace_refs(node.item, change), node.least, node.most)
    return node


def nullable(grammar: Grammar) -> list[bool]:
    """Whether each rule may be empty."""
    return _least(grammar, _is_empty)


def productive(grammar: Grammar) -> list[bool]:
    """Whether each rule matches any text."""
    return _least(grammar, _has_text)


def _least(grammar: Grammar, holds: Callable[[Node, list[bool]], bool]) -> list[bool]:
    """The least solution of a property of rules that depends on that of the rules they name."""
    found = [False] * len(grammar.rules)
    work: deque[int] = deque()
    for number in reversed(range(len(grammar.rules))):  # rules mostly name later ones
        found[number] = holds(grammar.rules[number].body, found)
        if not found[number]:
            work.append(number)
    users: list[list[int]] = [[] for _ in grammar.rules]
    for number in work:
        for rule in _named(grammar.rules[number].body):
            users[rule].append(number)
    while work:
        number = work.popleft()
        if not found[number] and holds(grammar.rules[number].body, found):
            found[number] = True
            work.extend(users[number])
    return found


def _named(node: Node) -> Iterator[int]:
    """The rules that a node names."""
    if isinstance(node, Ref):
        yield node.rule
    elif isinstance(node, Seq | Alt):
        for item in node.items:
            if not is_leaf(item):
                yield from _named(item)
    elif isinstance(node, Repeat):
        yield from _named(node.item)


def _is_empty(node: Node, rules: list[bool]) -> bool:
    match node:
        case Text(data):
            return not data
        case Ref(rule):
            return rules[rule]
        case Seq(items):
            return all(_is_empty(item, rules) for item in items)
        case Alt(items):
            return any(_is_empty(item, rules) for item in items)
        case Repeat(item, least, _):
            return least == 0 or _is_empty(item, rules)
        case Automaton(states):
            return states[0].accepting
    return False


def _has_text(node: Node, rules: list[bool]) -> bool:
    match node:
        case Chars(ranges):
            return bool(ranges)
        case Ref(rule):
            return rules[rule]
        case Seq(items):
            return all(_has_text(item, rules) for item in items)
        case Alt(items):
            return any(_has_text(item, rules) for item in items)
        case Repeat(item, least, _):
            return least == 0 or _has_text(item, rules)
        case Automaton(states):
            return any(state.accepting for state in states)
    return True


# -- recursion on the left -------------------------------------------------------------------------------------


def without_left_recursion(grammar: Grammar) -> Grammar:
    """A ::= A x | y becomes A ::= y x*; recursion through other rules is an error that names the cycle."""
    empty = nullable(grammar)
    rules = list(grammar.rules)
    for number, rule in enumerate(grammar.rules):
        if any(ref == number for ref in first_refs(rule.body, empty)):
            rules[number] = Rule(rule.name, _rewritten(rule.body, number), rule.where)
    if any(new is not old for new, old in zip(rules, grammar.rules, strict=True)):
        grammar = Grammar(tuple(rules), grammar.root)
        empty = nullable(grammar)
    cycle = _left_cycle(grammar, empty)
    if cycle:
        names = " -> ".join(grammar.rules[number].name for number in [*cycle, cycle[0]])
        where = grammar.rules[cycle[0]].where
        raise GrammarError(
            f"the rule {grammar.rules[cycle[0]].name!r} ({where}) begins with itself: {names}",
            hint="write what repeats with * or +, or let the rule end with itself",
        )
    return grammar


def _rewritten(body: Node, number: int) -> Node:
    """A rule's body without alternatives that begin with the rule itself."""
    others: list[Node] = []
    rests: list[Node] = []
    for item in body.items if isinstance(body, Alt) else (body,):
        if item == Ref(number):
            continue
        if isinstance(item, Seq) and item.items[0] == Ref(number):
            rests.append(seq(item.items[1:]))
        else:
            others.append(item)
    if not rests:
        return alt(others) if others else NOTHING
    return seq([alt(others) if others else NOTHING, repeat(alt(rests), 0, None)]) if others else NOTHING


def first_refs(node: Node, empty: list[bool]) -> Iterable[int]:
    """The rules that may stand at the very beginning of what a node matches."""
    stack = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, Ref):
            yield top.rule
        elif isinstance(top, Alt):
            stack += top.items
        elif isinstance(top, Repeat):
            stack.append(top.item)
        elif isinstance(top, Seq):
            for item in top.items:
                stack.append(item)
                if not _is_empty(item, empty):
                    break


def _left_cycle(grammar: Grammar, empty: list[bool]) -> list[int]:
    """Rules that begin with one another in a circle; none if there is no such circle."""
    first = [list(dict.fromkeys(first_refs(rule.body, empty))) for rule in grammar.rules]
    state = [0] * len(first)  # 1: on the path, 2: done
    for start in range(len(first)):
        path, positions = [start], [0]
        if state[start]:
            continue
        state[start] = 1
        while path:
            at = path[-1]
            if positions[-1] == len(first[at]):
                state[at] = 2
                path.pop()
                positions.pop()
                continue
            to = first[at][positions[-1]]
            positions[-1] += 1
            if state[to] == 1:
                return path[path.index(to) :]
            if state[to] == 0:
                state[to] = 1
                path.append(to)
                positions.append(0)
    return []


__all__ = ["EMPTY", "finish", "first_refs", "nullable", "productive", "reachable", "unreachable"]

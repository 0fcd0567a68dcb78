"""`grammar`: only what a grammar allows. GBNF, lark's notation, JSON Schema, expressions, choices, structural tags.

Every language becomes the intermediate form of `ir`, which `compile` makes into a native network; the masks are made
and applied natively, first in the chain. Control tokens are never allowed; tokens that end the text are, exactly where
the grammar may end.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from llamakit.bounded_json import decode, has_more_values
from llamakit.errors import UsageError
from llamakit.hookspecs import hookimpl
from llamakit.options import Options
from llamakit.sampler import NativeSampler, SequenceContext, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from llamakit.plugins.samplers.grammar.ir import Grammar
    from llamakit.plugins.samplers.grammar.study import Study

LONGEST = 1 << 18  # characters of a grammar; reading that many takes a second or two
LARGEST = 1 << 21  # bytes of JSON of what else a grammar can be given as: a schema, choices, a tag
FIELDS = {"gbnf": "grammar"}  # the option of a kind, where it has another name
UI = {"x-ui": {"group": "Grammar", "widget": "grammar"}}


class GrammarOptions(Options):
    """What the text must be; at most one of these."""

    grammar: Annotated[
        str, Meta(max_length=LONGEST, description="A grammar in GBNF; the text matches its rule root.",
                  extra_json_schema=UI),
    ] = ""  # fmt: skip
    lark: Annotated[
        str, Meta(max_length=LONGEST, description="A grammar in lark's notation; the text matches its rule start.",
                  extra_json_schema=UI),
    ] = ""  # fmt: skip
    json_schema: Annotated[
        dict[str, Any] | str | bool | None,
        Meta(description="A JSON Schema, or its text; the answer is a JSON value that it describes.",
             extra_json_schema=UI),
    ] = None  # fmt: skip
    regex: Annotated[
        str, Meta(max_length=LONGEST, description="A regular expression that the whole text matches.",
                  extra_json_schema=UI),
    ] = ""  # fmt: skip
    choices: Annotated[
        list[str], Meta(max_length=10_000, description="The text is exactly one of these.", extra_json_schema=UI)
    ] = []
    structural_tag: Annotated[
        dict[str, Any] | str | None,
        Meta(description="Free text with tags, schemas and expressions in it, as in xgrammar; or its text.",
             extra_json_schema=UI),
    ] = None  # fmt: skip
    lenient: Annotated[
        bool, Meta(description="Of a JSON Schema, leave out what cannot be enforced instead of refusing it.")
    ] = False

    def chosen(self) -> tuple[str, Any] | None:
        """Which of them is given, and its value."""
        values = {"gbnf": self.grammar, "lark": self.lark, "regex": self.regex, "choices": self.choices}
        given = [(kind, value) for kind, value in values.items() if value]
        for kind, value in (("json_schema", self.json_schema), ("structural_tag", self.structural_tag)):
            if value is not None and value != "":
                given.append((kind, value))
        if len(given) > 1:
            names = " and ".join(kind for kind, _ in given[:2])
            raise UsageError(f"{names} cannot both be asked for", hint="one of them", param="grammar")
        return given[0] if given else None


class GrammarSampler(NativeSampler):
    """Masks every token that the grammar does not allow next."""

    name = "grammar"
    summary = "only what a grammar, JSON Schema or regular expression allows"
    Options = GrammarOptions
    stage = Stage.LOGITS

    def active(self) -> bool:
        """Whether a grammar is asked for."""
        return self._stage is not None

    def make_native(self) -> Any:
        """The native stage; programs are shared between requests."""
        from llamakit import _sampling

        made = made_of(self.options, self.context)
        return None if made is None else _sampling.GrammarStage(made[0])

    @staticmethod
    def left_out(options: GrammarOptions, context: SequenceContext) -> list[str]:
        """What of the schemas in the options is not enforced; the grammar is made, and kept for `make_native`."""
        made = made_of(options, context)
        return [] if made is None else made[1]

    def start(self) -> None:
        """The prompt is over: the grammar begins."""
        self._stage.start()

    def forced(self, n: int) -> list[int]:
        """Tokens that the grammar leaves no choice about."""
        found: list[int] = self._stage.forced(n)
        return found

    def clone(self) -> GrammarSampler:
        """A copy at the same place of the grammar."""
        other = type(self).__new__(type(self))
        other.options, other.context = self.options, self.context
        other._stage = None if self._stage is None else self._stage.clone()
        return other

    @staticmethod
    def parse(kind: str, source: object, *, lenient: bool = False) -> Grammar:
        """The intermediate form of a "gbnf", "lark", "json_schema", "regex", "choices" or "structural_tag"."""
        return parse(kind, source, lenient=lenient)

    @staticmethod
    def study(
        kind: str, source: object, *, lenient: bool = False, token_ids: Callable[[str], list[int]] | None = None
    ) -> Study:
        """The same to look at: what is odd in it, texts that are in it, the whole as GBNF."""
        from llamakit.plugins.samplers.grammar.study import Study

        notes = Notes()
        grammar = parse(kind, source, lenient=lenient, token_ids=token_ids, notes=notes)
        return Study(grammar, tuple(notes.warnings), tuple(notes.left_out))


class Notes:
    """What is said of a grammar while it is read: what is odd, and what of a schema was left out."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.left_out: list[str] = []


def made_of(options: GrammarOptions, context: SequenceContext) -> tuple[Any, list[str]] | None:
    """The program that options ask for, and what was left out of it; None where they ask for none."""
    chosen = options.chosen()
    if chosen is None:
        return None
    if context.tokenizer is None:
        raise UsageError("a grammar needs the vocabulary of a model", param="grammar")
    try:
        return program(*chosen, context, lenient=options.lenient)
    except UsageError as error:
        error.param = error.param or FIELDS.get(chosen[0], chosen[0])
        raise


def program(kind: str, source: Any, context: SequenceContext, *, lenient: bool = False) -> tuple[Any, list[str]]:
    """The native program of a grammar for the vocabulary of a sequence, and what was left out of it."""
    from llamakit.plugins.samplers.grammar.compile import shared

    tokenizer = context.tokenizer
    encoded = b"" if has_more_values(source, LARGEST // 2) else msgspec.json.encode([kind, source, lenient])
    if not encoded or len(encoded) > LARGEST:
        from llamakit.plugins.samplers.grammar.errors import GrammarError

        n_bytes = f"{len(encoded):,}" if encoded else f"more than {LARGEST:,}"
        raise GrammarError(f"it has {n_bytes} bytes; {LARGEST:,} are possible", param=FIELDS.get(kind, kind))
    key = hashlib.sha256(encoded).digest()

    def token_ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, parse_special=True)
        return found

    def make(left_out: list[str]) -> Grammar:
        notes = Notes()
        grammar = parse(kind, source, lenient=lenient, token_ids=token_ids, notes=notes)
        left_out += notes.left_out
        return grammar

    return shared.program(key, tokenizer, make)


def parse(
    kind: str, source: Any, *, lenient: bool = False, token_ids: Callable[[str], list[int]] | None = None,
    notes: Notes | None = None,
) -> Grammar:  # fmt: skip
    """Each language's own reader, imported when it is asked for. GrammarError for texts of more than `LONGEST`."""
    notes = notes or Notes()
    n_char, most = (sum(map(len, source)), 2 * LONGEST) if kind == "choices" else (0, 0)
    if isinstance(source, str):
        n_char, most = len(source), LONGEST
    if n_char > most:
        from llamakit.plugins.samplers.grammar.errors import GrammarError

        raise GrammarError(f"it has {n_char:,} characters; {most:,} are possible", param=FIELDS.get(kind, kind))
    if kind == "gbnf":
        from llamakit.plugins.samplers.grammar.gbnf import parse_gbnf

        return parse_gbnf(source, token_ids=token_ids, warnings=notes.warnings)
    if kind == "lark":
        from llamakit.plugins.samplers.grammar.lark_notation import parse_lark

        return parse_lark(source, token_ids=token_ids, warnings=notes.warnings)
    if kind == "json_schema":
        from llamakit.plugins.samplers.grammar.schema import schema_to_grammar

        if isinstance(source, str):
            try:
                source = decode(source.encode(), "json_schema", "json_schema")[0]
            except msgspec.DecodeError as error:
                raise UsageError(f"json_schema is not JSON: {error}", param="json_schema") from None
        grammar, left_out = schema_to_grammar(source, lenient=lenient)
        notes.left_out += left_out
        return grammar
    if kind == "regex":
        from llamakit.plugins.samplers.grammar.regex import parse_regex

        return parse_regex(source)
    if kind == "choices":
        from llamakit.plugins.samplers.grammar.choices import choices_to_grammar

        return choices_to_grammar(source)
    if kind == "structural_tag":
        from llamakit.plugins.samplers.grammar.structural_tag import structural_tag_to_grammar

        return structural_tag_to_grammar(source, token_ids, notes.left_out)
    raise UsageError(f"no kind of grammar called {kind!r}: gbnf, lark, json_schema, regex, choices or structural_tag")


@hookimpl
def llamakit_samplers() -> list[type[GrammarSampler]]:
    """Give the registry this plugin's sampler."""
    return [GrammarSampler]

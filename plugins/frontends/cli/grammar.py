"""`llamakit grammar`: what a grammar allows, without running a model."""

from __future__ import annotations

from typing import Any

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.params import json_option, model_option, output_options, read_text

from llamakit.errors import UsageError
from llamakit.terminal import json_text, safe

KINDS = {
    "grammar": "gbnf", "lark": "lark", "json_schema": "json_schema", "regex": "regex", "choices": "choices",
    "structural_tag": "structural_tag",
}  # fmt: skip
SHOWN = 60  # characters of a text that was checked
MOST_TEXTS = 10_000


@click.command()
@click.option("--grammar", "grammar_", metavar="TEXT", help="A grammar in GBNF.")
@click.option("--grammar-file", metavar="FILE", help="The same from a file; - is standard input.")
@click.option("--lark", metavar="TEXT", help="A grammar in lark's notation.")
@click.option("--lark-file", metavar="FILE", help="The same from a file; - is standard input.")
@click.option("--json-schema", metavar="JSON", help="A JSON Schema.")
@click.option("--json-schema-file", metavar="FILE", help="The same from a file; - is standard input.")
@click.option("--regex", metavar="TEXT", help="A regular expression.")
@click.option("--choices", metavar="JSON", help='An array of texts, such as ["yes", "no"].')
@click.option("--structural-tag", metavar="JSON", help="Free text with tags and schemas in it.")
@click.option("--structural-tag-file", metavar="FILE", help="The same from a file; - is standard input.")
@click.option("--lenient", is_flag=True, help="Of a JSON Schema, leave out what cannot be enforced.")
@model_option
@click.option("--print", "print_", is_flag=True, help="Write the grammar in GBNF.")
@click.option("--count", type=click.IntRange(0, MOST_TEXTS), default=0, metavar="N", help="Write N random texts of it.")
@click.option("--seed", type=int, metavar="N", help="Of the random texts. [a new one]")
@json_option
@output_options
@click.argument("texts", nargs=-1)
@click.pass_context
def grammar(ctx: click.Context, **options: Any) -> None:
    """Explain a grammar, and say of TEXTS whether they are in it (- is standard input); exit code 1 if one is not.

    \b
    llamakit grammar --grammar-file list.gbnf
    llamakit grammar --json-schema-file person.json --print
    llamakit grammar --regex "[a-z]{3}-[0-9]+" abc-12 abc-x
    llamakit grammar --choices '["yes", "no"]' --count 5 --seed 1
    """
    from llamakit.grammar import study
    from llamakit.registry import Registry

    console = Console(options["quiet"], options["verbose"])
    registry = Registry.discover()
    kind, source = _source(options, registry)
    found = study(kind, source, lenient=options["lenient"], token_ids=_token_ids(options["model"]), registry=registry)
    given = [read_text("-") if text == "-" else text for text in options["texts"]]
    verdicts = [found.check(text) for text in given]
    made = found.texts(options["count"], seed=options["seed"])
    if options["as_json"]:
        _write_json(kind, found, options["print_"], given, verdicts, made)
    else:
        _write(kind, found, console, options["print_"], given, verdicts, made)
    ctx.exit(0 if all(verdict.accepted for verdict in verdicts) else 1)


def _source(options: dict[str, Any], registry: Any) -> tuple[str, Any]:
    """The kind of what is given, and its text."""
    given: list[tuple[str, Any]] = []
    for name, kind in KINDS.items():
        text = options["grammar_" if name == "grammar" else name]
        file = options.get(f"{name}_file")
        if text is not None:
            given.append((kind, text))
        if file is not None:
            given.append((kind, read_text(file)))
    if len(given) != 1:
        names = ", ".join("--" + name.replace("_", "-") for name in KINDS)
        what = "no grammar is given" if not given else "more than one grammar is given"
        raise UsageError(what, hint=f"one of {names} (or --grammar-file and the like)", param="grammar")
    kind, source = given[0]
    if kind == "choices":
        from llamakit.options import fields_of

        fields = {field.name: field for field in fields_of(registry.sampler("grammar").Options)}
        source = fields["choices"].parse(source)
    return kind, source


def _token_ids(model: str | None) -> Any:
    """What turns the text of a token into ids, if a model is given."""
    if not model:
        return None
    from llamakit.gguf import open_gguf
    from llamakit.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(open_gguf(model).metadata)
    return lambda text: tokenizer.encode(text, parse_special=True)


def _write(
    kind: str, found: Any, console: Console, print_: bool, given: list[str], verdicts: list[Any], made: list[str]
) -> None:
    """For people: what was asked for on stdout, remarks on stderr."""
    for line in (*found.warnings, *(f"left out: {what}" for what in found.left_out)):
        console.note(f"{click.style('note:', fg='yellow')} {safe(line)}")
    if print_:
        click.echo(found.gbnf(), nl=False)
    elif not given and not made:
        tokens = "; it names tokens of a vocabulary" if found.names_tokens else ""
        click.echo(f"{kind}: rules {found.n_rule:,}, states {found.n_state:,}{tokens}")
        for rule in found.grammar.rules:
            click.echo(f"  {safe(rule.name)}" + (f"  ({safe(rule.where)})" if rule.where else ""))
    for text, verdict in zip(given, verdicts, strict=True):
        shown = repr(text if len(text) <= SHOWN else text[:SHOWN] + "...")
        if verdict.accepted:
            click.echo(f"{click.style('yes', fg='green')}  {shown}")
            continue
        click.echo(f"{click.style('no', fg='red')}   {shown}")
        possible = f"; possible: {verdict.expected}" if verdict.expected else ""
        click.echo(f"     line {verdict.line}, column {verdict.column}: {verdict.reason}{possible}")
        for line in verdict.excerpt.split("\n"):
            click.echo(f"     {line}")
    for text in made:
        click.echo(safe(text))


def _write_json(kind: str, found: Any, print_: bool, given: list[str], verdicts: list[Any], made: list[str]) -> None:
    import msgspec

    record: dict[str, Any] = {
        "kind": kind,
        "n_rule": found.n_rule,
        "n_state": found.n_state,
        "rules": [{"name": rule.name, "where": rule.where} for rule in found.grammar.rules],
        "names_tokens": found.names_tokens,
        "warnings": found.warnings,
        "left_out": found.left_out,
    }
    if print_:
        record["gbnf"] = found.gbnf()
    if given:
        pairs = zip(given, verdicts, strict=True)
        record["checks"] = [{"text": text} | msgspec.to_builtins(verdict) for text, verdict in pairs]
    if made:
        record["texts"] = made
    click.echo(json_text(record))

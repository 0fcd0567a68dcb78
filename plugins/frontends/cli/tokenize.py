"""`llamakit tokenize` and `llamakit detokenize`: text to token ids and back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from llamakit.plugins.frontends.cli.params import json_option, model_option, settings_model

from llamakit.embedded import named_or_embedded
from llamakit.terminal import json_text

if TYPE_CHECKING:
    from llamakit.tokenizer import Tokenizer


def _tokenizer(ctx: click.Context, model: str | None) -> Tokenizer:
    from llamakit.gguf import open_gguf
    from llamakit.tokenizer import load_tokenizer

    path, _ = named_or_embedded(model or settings_model(ctx))
    return load_tokenizer(open_gguf(path).metadata)


def _shown(piece: bytes) -> str:
    """A token's text in quotes; one that has a part of a character only, as its bytes."""
    try:
        return repr(piece.decode())
    except UnicodeDecodeError:
        return f"bytes {piece.hex(' ')}"


@click.command()
@model_option
@click.option("--add-bos", is_flag=True, help="Add BOS (and EOS) where the model asks for it.")
@click.option("--parse-special", is_flag=True, help="Read the text of control tokens, such as </s>, as those tokens.")
@json_option
@click.argument("text")
@click.pass_context
def tokenize(
    ctx: click.Context, model: str | None, add_bos: bool, parse_special: bool, as_json: bool, text: str
) -> None:
    """Show TEXT as tokens; - takes standard input byte for byte.

    \b
    llamakit tokenize -m model.gguf "Once upon a time"
    llamakit tokenize -m model.gguf --json - < book.txt
    """
    tokenizer = _tokenizer(ctx, model)
    data = sys.stdin.buffer.read() if text == "-" else text.encode("utf-8", "surrogateescape")
    tokens = tokenizer.encode(data, add_special=add_bos, parse_special=parse_special)
    if as_json:
        click.echo(json_text({"tokens": tokens}))
        return
    for token in tokens:
        click.echo(f"{token:>8}  {_shown(tokenizer.piece(token))}")


@click.command()
@model_option
@json_option
@click.argument("ids", nargs=-1, type=int, required=True)
@click.pass_context
def detokenize(ctx: click.Context, model: str | None, as_json: bool, ids: tuple[int, ...]) -> None:
    """Show token IDS as text.

    \b
    llamakit detokenize -m model.gguf 403 407 261 378
    """
    content = _tokenizer(ctx, model).decode(list(ids), special=True)
    click.echo(json_text({"content": content}) if as_json else content)

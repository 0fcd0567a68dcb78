"""`llamakit inspect`: what a GGUF file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from llamakit.plugins.frontends.cli.console import fitted
from llamakit.plugins.frontends.cli.params import json_option, settings_model

from llamakit.embedded import named_or_embedded
from llamakit.terminal import json_text, one_line
from llamakit.units import size_text

if TYPE_CHECKING:
    from llamakit.gguf import GGUFFile

SHOWN = 5  # elements of a long array


@click.command()
@json_option
@click.option("-m", "--model", type=click.Path(), metavar="FILE", help="The file, if not given as an argument.")
@click.option("--metadata/--no-metadata", default=True, help="Show metadata. [on]")
@click.option("--tensors/--no-tensors", default=True, help="Show tensors. [on]")
@click.option("--check", is_flag=True, help="Read every tensor and look for damage; exit code 1 if there is any.")
@click.argument("file", type=click.Path(), required=False)
@click.pass_context
def inspect(
    ctx: click.Context, as_json: bool, model: str | None, metadata: bool, tensors: bool, check: bool, file: str | None
) -> None:
    """Show the metadata and tensors of a GGUF FILE.

    \b
    llamakit inspect model.gguf
    llamakit inspect model.gguf --json --no-tensors
    """
    from llamakit.gguf import open_gguf

    path, _ = named_or_embedded(file or model or settings_model(ctx))
    with open_gguf(path) as gguf:
        if check:
            ctx.exit(1 if _check(gguf, as_json) else 0)
        if as_json:
            click.echo(json_text(_record(gguf, metadata, tensors)))
            return
        n_keys, n_tensors = len(gguf.metadata), len(gguf.tensors)
        click.echo(f"GGUF v{gguf.version}, {size_text(gguf.n_bytes)}, {n_keys} keys, {n_tensors} tensors")
        if metadata:
            _print_table([(key, _short(gguf.metadata[key])) for key in gguf.metadata])
        if tensors and gguf.tensors:
            tensors = gguf.tensors.values()
            rows = [(t.name, t.type.name, " x ".join(map(str, t.shape)), size_text(t.n_bytes)) for t in tensors]
            _print_table([("tensor", "type", "shape", "size"), *rows])


def _check(gguf: GGUFFile, as_json: bool) -> list[dict[str, str]]:
    """Decode all tensors, and check them against the metadata; report what is not a number, missing or misshapen."""
    import numpy as np
    from llamakit.plugins.frontends.cli.console import Console

    from llamakit.errors import LlamaKitError
    from llamakit.gguf import text_of
    from llamakit.models import load_model
    from llamakit.registry import Registry

    faults = []
    with Console().progress("check") as progress:
        for i, info in enumerate(gguf.tensors.values()):
            progress.update(i, len(gguf.tensors))
            try:
                bad = int(np.count_nonzero(~np.isfinite(gguf.tensor(info.name))))
                fault = f"{bad:,} of its values are infinite or no numbers" if bad else ""
            except LlamaKitError as error:
                fault = error.message
            if fault:
                faults.append({"tensor": info.name, "fault": fault})
    known = Registry.discover().entry_names("architecture")
    if text_of(gguf.metadata, "general.architecture") in known and "token_embd.weight" in gguf.tensors:
        try:
            load_model(gguf)
        except LlamaKitError as error:
            faults.append({"tensor": "metadata", "fault": error.message})
    if as_json:
        click.echo(json_text({"tensors": len(gguf.tensors), "faults": faults}))
        return faults
    for each in faults:
        click.echo(one_line(f"{each['tensor']}: {each['fault']}"))
    click.echo(f"{len(gguf.tensors)} tensors read, {len(faults) or 'none'} damaged")
    return faults


def _record(gguf: GGUFFile, metadata: bool, tensors: bool) -> dict[str, Any]:
    record: dict[str, Any] = {"version": gguf.version, "bytes": gguf.n_bytes, "files": [str(p) for p in gguf.paths]}
    if metadata:
        record["metadata"] = {key: _plain(gguf.metadata[key]) for key in gguf.metadata}
    if tensors:
        record["tensors"] = [
            {"name": t.name, "type": t.type.name, "shape": list(t.shape), "offset": t.offset, "bytes": t.n_bytes}
            for t in gguf.tensors.values()
        ]
    return record


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, (str, int, float, bool)):
        return value
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str):
        return value if len(value) <= 80 else f"{value[:77]!r}..."
    if isinstance(value, (int, float, bool)):
        return str(value)
    first = ", ".join(
        repr(_plain(value[i]) if not isinstance(value[i], str) else value[i]) for i in range(min(SHOWN, len(value)))
    )
    return f"[{first}{', ...' if len(value) > SHOWN else ''}] ({len(value)})"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    click.echo()
    rows = [tuple(map(one_line, row)) for row in rows]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo(fitted("  ".join([*cells, row[-1]]).rstrip()))

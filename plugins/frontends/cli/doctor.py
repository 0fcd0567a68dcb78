"""`llamakit doctor`: is this machine ready, what is in use, what is missing."""

from __future__ import annotations

import platform
import re
import shutil
import textwrap
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from llamakit.plugins.frontends.cli.console import Console
from llamakit.plugins.frontends.cli.params import json_option

from llamakit import __version__
from llamakit.terminal import json_text, one_line
from llamakit.units import size_text

HINTS = {
    "matplotlib": "pip install 'llamakit[plot]', for pictures of bench --plot",
}


@click.command()
@click.option("--rates", is_flag=True, help="Measure what each device does at best, for seconds each.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, rates: bool, as_json: bool) -> None:
    """Check this machine: processor, memory, backends, plugins. Exit code 1 if something needs fixing."""
    with Console(quiet=as_json).progress("looking"):  # backends are opened, which may take seconds
        report = _report(rates=rates)
    if as_json:
        click.echo(json_text(report))
    else:
        _print(report)
    if report["fix"]:
        ctx.exit(1)


def _report(*, rates: bool) -> dict[str, Any]:
    from llamakit import system
    from llamakit.registry import Registry

    infos = Registry.discover().plugins()
    broken = [info for info in infos if not info.available and info.kind != "backend"]
    fix = [
        f"{info.kind} {info.name} of {info.package} does not load: {info.reason} (update the package, or remove it)"
        for info in broken
    ]
    fix += [
        f"backend {i.name} is not available: {i.reason} (install LlamaKit again on this machine)"
        for i in infos
        if i.kind == "backend" and i.name == "cpu" and not i.available
    ]
    return {
        "llamakit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": {"name": system.cpu_name(), "count": system.cpu_count(), "features": system.cpu_flags()},
        "memory": {"total": system.total_memory(), "free": system.free_memory(), "huge_pages": system.huge_pages()},
        "backends": [
            {
                "name": i.name,
                "available": i.available,
                "reason": i.reason,
                "devices": _devices(i.name, rates=rates) if i.available else [],
            }
            for i in infos
            if i.kind == "backend"
        ],
        "drivers": drivers(),
        "plugins": {"count": len(infos), "broken": [f"{i.kind} {i.name}" for i in broken]},
        "optional": {name: _installed(name) for name in HINTS},
        "fix": fix,
    }


def drivers(root: Path = Path("/")) -> list[str]:
    """Drivers of accelerators that this machine has, for backends of other packages."""
    found = []
    with suppress(OSError):
        version = re.search(r"\d+\.\d+(?:\.\d+)?", (root / "proc/driver/nvidia/version").read_text())
        found.append(f"NVIDIA {version[0] if version else ''}".strip())
    if (root / "dev/kfd").exists():
        found.append("AMD (ROCm)")
    found += [f"OpenCL {file.stem}" for file in sorted((root / "etc/OpenCL/vendors").glob("*.icd"))]
    return [one_line(name) for name in found]


def _devices(name: str, *, rates: bool) -> list[dict[str, Any]]:
    """Each device of a backend, and what would be in use there; opening it is what tells."""
    import msgspec

    from llamakit.errors import LlamaKitError
    from llamakit.registry import Registry

    cls, found = Registry.discover().backend(name), []
    for number in range(max(len(cls.probe().devices), 1)):
        told: dict[str, Any] = {"device": f"{name}:{number}", "kernels": {}, "rates": None}
        try:
            device = cls().open(number)
            try:
                told["kernels"] = dict(device.kernels())
                if rates and (measured := device.ceilings()) is not None:
                    told["rates"] = msgspec.to_builtins(measured)
            finally:
                device.close()
        except LlamaKitError as error:
            told["kernels"]["error"] = str(error)
        found.append(told)
    return found


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _line(head: str, text: str) -> None:
    """A line; where it is too wide for the terminal, more of them under its beginning."""
    width = shutil.get_terminal_size().columns
    click.echo(
        textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    )


def _rates(rates: dict[str, Any]) -> str:
    """What was measured, in a line."""
    multiplied = ", ".join(f"{type_} {rate / 1e9:,.0f}" for type_, rate in rates["multiply_adds"].items())
    notes = ", ".join(f"{name} {text}" for name, text in rates["notes"].items())
    reads = f"at best: reads {rates['read_bandwidth'] / 1e9:,.1f} GB/s, 10^9 multiply-adds/s {multiplied}"
    return reads + (f", {notes}" if notes else "")


def _print(report: dict[str, Any]) -> None:
    cpu, memory = report["cpu"], report["memory"]
    click.echo(f"llamakit {report['llamakit']}, Python {report['python']}, {report['system']}\n")
    click.echo(f"CPU       {cpu['name']}, {cpu['count']} usable")
    _line(" " * 10, " ".join(cpu["features"]))
    pages = f", huge pages {memory['huge_pages']}" if memory["huge_pages"] else ""
    click.echo(f"Memory    {size_text(memory['total'])}, {size_text(memory['free'])} free{pages}")
    label = "Backends"
    for backend in report["backends"]:
        state = "ok" if backend["available"] else "--"
        several = len(backend["devices"]) > 1
        for device in backend["devices"] or [{"device": backend["name"], "kernels": {}, "rates": None}]:
            texts = [", ".join(f"{k} {v}" for k, v in device["kernels"].items()) or backend["reason"]]
            texts += [_rates(device["rates"])] if device["rates"] else []
            _line(f"{label:<9} {state}  {device['device'] if several else backend['name']:<10} ", "; ".join(texts))
            label = ""
    click.echo(f"Drivers   {', '.join(report['drivers']) or 'none of an accelerator'}")
    loaded = report["plugins"]["count"] - len(report["plugins"]["broken"])
    click.echo(f"Plugins   {loaded} of {report['plugins']['count']} load")
    for name, present in report["optional"].items():
        if not present:
            _line("Optional  ", f"{name} is not installed: {HINTS[name]}")
    click.echo()
    for line in report["fix"]:
        _line("  fix   ", line)
    click.echo(f"{len(report['fix'])} to fix" if report["fix"] else "nothing to fix")

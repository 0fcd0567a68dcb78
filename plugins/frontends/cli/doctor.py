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
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: processor, memory, backends, plugins. Exit code 1 if something needs fixing."""

    with Console(quiet=as_json).progress("looking"):  # backends are opened, which may take seconds
        report = _report()
    if as_json:
        click.echo(json_text(report))
    else:
        _print(report)
    if report["fix"]:
        ctx.exit(1)


def _report() -> dict[str, Any]:
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
                "kernels": _kernels(i.name) if i.available else {},
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


def _kernels(name: str) -> dict[str, str]:
    """What a backend would use; opening its device is what tells."""
    from llamakit.errors import LlamaKitError
    from llamakit.registry import Registry

    try:
        device = Registry.discover().backend(name)().open()
        kernels = dict(device.kernels())
        device.close()
    except LlamaKitError as error:
        return {"error": str(error)}
    return kernels


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _line(head: str, text: str) -> None:
    """A line; where it is too wide for the terminal, more of them under its beginning."""
    width = shutil.get_terminal_size().columns
    click.echo(
        textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False)
    )


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
        kernels = ", ".join(f"{k} {v}" for k, v in backend["kernels"].items())
        _line(f"{label:<9} {state}  {backend['name']:<10} ", kernels or backend["reason"])
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

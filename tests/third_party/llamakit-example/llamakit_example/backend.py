"""A backend that wraps another one, found by name, and counts its runs."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from llamakit.backend import Availability, Backend, Device
from llamakit.hookspecs import hookimpl
from llamakit.options import Options
from llamakit.registry import Registry


class TracedOptions(Options):
    """Which backend is wrapped."""

    inner: Annotated[str, Meta(description="The backend that does the work.")] = "reference"


class Traced(Backend):
    """Passes everything on."""

    name = "traced"
    summary = "counts the runs of another backend"
    Options = TracedOptions

    @classmethod
    def probe(cls) -> Availability:
        """Always there."""
        return Availability(available=True, reason="wraps another backend")

    def open(self, index: int = 0) -> Device:
        """The other backend's device, with its programs counted."""
        device: Any = Registry.discover().backend(self.options.inner)().open(index)
        compile_, runs = device.compile, []

        def counted(*args: Any, **kwargs: Any) -> Any:
            program = compile_(*args, **kwargs)
            run = program.run
            program.run = lambda sizes, **more: (runs.append(sizes), run(sizes, **more))[1]
            return program

        device.compile = counted
        device.kernels = lambda: {"traced": str(len(runs))}
        return device


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """This package's backend."""
    return [Traced]

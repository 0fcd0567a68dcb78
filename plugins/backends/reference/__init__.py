"""The `reference` backend: numpy that defines what every op means.

It is always available, written to be read, and slow. Each op is computed in float64 and rounded to float32
once, so that another backend's error against it is that backend's own. With `float64` nothing is rounded, for checks
of gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.backend import Availability, Backend, DeviceInfo
from llamakit.hookspecs import hookimpl
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.backend import Device


class ReferenceOptions(Options):
    """How exact it is."""

    float64: Annotated[
        bool, Meta(description="Keep all values and states in float64, for checks of gradients; else in float32.")
    ] = False


class ReferenceBackend(Backend):
    """Numpy on the host."""

    name = "reference"
    summary = "numpy, the definition of every op: slow, always available"
    Options = ReferenceOptions

    @classmethod
    def probe(cls) -> Availability:
        """It runs wherever numpy does."""
        return Availability(available=True, reason="numpy is all it needs", devices=(DeviceInfo("numpy", "cpu"),))

    def open(self, index: int = 0) -> Device:
        """The one device there is."""
        from llamakit.plugins.backends.reference.device import ReferenceDevice

        return ReferenceDevice(self.options)


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """Give the registry this plugin's backend."""
    return [ReferenceBackend]

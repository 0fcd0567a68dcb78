"""The `reference` backend: numpy that defines what every op means.

It is always available, written to be read, and slow. Each op is computed in float64 and rounded to float32
once, so that another backend's error against it is that backend's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llamakit.backend import Availability, Backend, DeviceInfo
from llamakit.hookspecs import hookimpl

if TYPE_CHECKING:
    from llamakit.backend import Device


class ReferenceBackend(Backend):
    """Numpy on the host."""

    name = "reference"
    summary = "numpy, the definition of every op: slow, always available"

    @classmethod
    def probe(cls) -> Availability:
        """It runs wherever numpy does."""
        return Availability(available=True, reason="numpy is all it needs", devices=(DeviceInfo("numpy", "cpu"),))

    def open(self, index: int = 0) -> Device:
        """The one device there is."""
        from llamakit.plugins.backends.reference.device import ReferenceDevice

        return ReferenceDevice()


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """Give the registry this plugin's backend."""
    return [ReferenceBackend]

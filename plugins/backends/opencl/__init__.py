"""The `opencl` backend: any device with OpenCL 1.2, by pyopencl (extra `opencl`). Its kernels are the core's."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from weakref import WeakSet

from msgspec import Meta

from llamakit.backend import Availability, Backend
from llamakit.errors import BackendError, LlamaKitError
from llamakit.hookspecs import hookimpl
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.plugins.backends.opencl.driver import OpenCLDriver

    from llamakit.backend import Device

VENDORS = "/etc/OpenCL/vendors"  # where drivers are listed


class OpenCLOptions(Options):
    """How kernels are shaped."""

    lanes: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Work-items that share a row of a weight, a power of two; 0: 1 on CPUs, else what is quickest.",
        ),
    ] = 0

    low_vram: Annotated[bool, Meta(description="Keep keys and values in main memory, not in that of the device.")] = (
        False
    )

    tune: Annotated[
        bool, Meta(description="Whether the quickest shape of kernels is measured when a model is first loaded.")
    ] = True


class OpenCLBackend(Backend):
    """Devices of OpenCL drivers: GPUs first, then others."""

    name = "opencl"
    summary = "GPUs and other devices with an OpenCL driver"
    Options = OpenCLOptions

    def __init__(self, options: OpenCLOptions | None = None) -> None:
        super().__init__(options)
        self._drivers: WeakSet[OpenCLDriver] = WeakSet()

    @classmethod
    def is_likely(cls) -> bool:
        """Whether pyopencl is there, and any driver but PoCL, which stands in for a GPU on processors."""
        if find_spec("pyopencl") is None:
            return False
        folder = Path(os.environ.get("OCL_ICD_VENDORS", VENDORS))
        if not folder.is_dir():
            return os.name != "posix" or not str(folder).startswith("/etc/")
        return any("pocl" not in file.name for file in folder.iterdir())

    @classmethod
    def probe(cls) -> Availability:
        """Whether there are pyopencl, a driver, and a device that computes right."""
        try:
            from llamakit.plugins.backends.opencl.devices import found
        except ImportError as error:
            return Availability(
                available=False, reason=f"pyopencl is not installed ({error}): pip install 'llamakit[opencl]'"
            )
        try:
            devices, refused = found()
        except LlamaKitError as error:
            return Availability(available=False, reason=error.message)
        if not devices:
            reason = "; ".join(refused) or "no OpenCL driver is installed: that of the GPU's vendor, or pocl-opencl-icd"
            return Availability(available=False, reason=reason)
        infos = tuple(device.info for device in devices)
        return Availability(available=True, reason=f"devices: {', '.join(i.name for i in infos)}", devices=infos)

    def open(self, index: int = 0) -> Device:
        """Device number `index`."""
        availability = self.probe()
        if not availability.available:
            raise BackendError(f"backend opencl is not available: {availability.reason}", hint="--backend cpu")
        from llamakit.plugins.backends.opencl.devices import found
        from llamakit.plugins.backends.opencl.driver import OpenCLDriver

        from llamakit.gpu.device import GPUDevice

        devices, _ = found()
        if not 0 <= index < len(devices):
            raise BackendError(f"backend opencl has no device {index}", found=f"it has {len(devices)}, counted from 0")
        o = self.options
        driver = OpenCLDriver(devices[index], o.lanes, low_vram=o.low_vram, tune=o.tune, together=self._drivers)
        return GPUDevice(driver)


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """Give the registry this plugin's backend."""
    return [OpenCLBackend]

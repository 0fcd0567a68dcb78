"""The `cuda` backend: NVIDIA GPUs, by the wheels of the extra `cuda` and the driver; no toolkit is needed.

Kernels and executor are the core's: NVRTC compiles the same sources that OpenCL devices get.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from llamakit.backend import Availability, Backend
from llamakit.errors import BackendError, LlamaKitError
from llamakit.hookspecs import hookimpl
from llamakit.options import Options

if TYPE_CHECKING:
    from llamakit.backend import Device

NO_GPU = "the NVIDIA driver is there, but it finds no GPU (CUDA_VISIBLE_DEVICES hides them if it is set to nothing)"
# Of the driver, of Windows' in WSL, of Tegra's.
DRIVER_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl-gpu")


class CUDAOptions(Options):
    """How kernels are shaped."""

    lanes: Annotated[
        int,
        Meta(ge=0, le=256, description="Threads that share a row of a weight, a power of two; 0: what is quickest."),
    ] = 0
    graphs: Annotated[
        bool, Meta(description="Whether steps that come again and again are recorded as graphs, and launched at once.")
    ] = True

    low_vram: Annotated[bool, Meta(description="Keep keys and values in main memory, not in that of the GPU.")] = False

    cublas: Annotated[
        bool, Meta(description="Whether cuBLAS, where it is installed, multiplies the matrices of long prompts.")
    ] = True

    tune: Annotated[
        bool, Meta(description="Whether the quickest shape of kernels is measured when a model is first loaded.")
    ] = True


class CUDABackend(Backend):
    """GPUs of NVIDIA."""

    name = "cuda"
    summary = "NVIDIA GPUs"
    Options = CUDAOptions

    @classmethod
    def is_likely(cls) -> bool:
        """Whether the driver's files are there."""
        return os.name != "posix" or any(Path(path).exists() for path in DRIVER_FILES)

    @classmethod
    def probe(cls) -> Availability:
        """Whether there are the wheels, a driver, a GPU, and NVRTC, without which nothing runs on it."""
        try:
            from llamakit.plugins.backends.cuda.compiler import version
            from llamakit.plugins.backends.cuda.devices import found
        except ImportError as error:
            reason = f"its Python packages are not installed ({error}): pip install 'llamakit[cuda]'"
            return Availability(available=False, reason=reason)
        try:
            infos = tuple(found())
            version()
        except LlamaKitError as error:
            return Availability(available=False, reason=error.message)
        if not infos:
            return Availability(available=False, reason=NO_GPU)
        return Availability(available=True, reason=f"devices: {', '.join(i.name for i in infos)}", devices=infos)

    def open(self, index: int = 0) -> Device:
        """Device number `index`, as the driver counts them (CUDA_VISIBLE_DEVICES says which there are)."""
        availability = self.probe()
        if not availability.available:
            raise BackendError(f"backend cuda is not available: {availability.reason}", hint="--backend cpu")
        if not 0 <= index < len(availability.devices):
            n = len(availability.devices)
            raise BackendError(f"backend cuda has no device {index}", found=f"it has {n}, counted from 0")
        from llamakit.plugins.backends.cuda.devices import refusal
        from llamakit.plugins.backends.cuda.driver import CUDADriver

        from llamakit.gpu.device import GPUDevice

        if reason := refusal(index, availability.devices[index]):
            raise BackendError(f"backend cuda: {reason}", hint="another device: --main-gpu, or --device cuda:N")
        o = self.options
        driver = CUDADriver(
            index,
            availability.devices[index],
            o.lanes,
            graphs=o.graphs,
            low_vram=o.low_vram,
            cublas=o.cublas,
            tune=o.tune,
        )
        return GPUDevice(driver)


@hookimpl
def llamakit_backends() -> list[type[Backend]]:
    """Give the registry this plugin's backend."""
    return [CUDABackend]

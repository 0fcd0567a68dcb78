"""Which OpenCL devices there are, and which of them can be used."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyopencl as cl

from llamakit.backend import DeviceInfo
from llamakit.errors import BackendError

NO_PLATFORM = -1001  # of loaders that find no driver
ORDER = {"gpu": 0, "accelerator": 1, "cpu": 2}


class Found(NamedTuple):
    """A device, and what people see of it."""

    device: Any
    info: DeviceInfo


def found() -> tuple[list[Found], list[str]]:
    """The devices that can be used, GPUs first, and why others cannot."""
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        if getattr(error, "code", 0) == NO_PLATFORM:
            return [], []
        raise BackendError(f"the OpenCL loader fails: {error}") from None
    usable, refused = [], []
    for platform in platforms:
        try:
            devices = platform.get_devices()
        except cl.Error as error:
            refused.append(f"{platform.name}: {error}")
            continue
        for device in devices:
            reason = _refusal(platform, device)
            if reason:
                refused.append(f"{device.name.strip()}: {reason}")
            else:
                usable.append(Found(device, _info(device)))
    return sorted(usable, key=lambda each: ORDER.get(each.info.kind, 9)), refused


def _refusal(platform: Any, device: Any) -> str:
    """Why a device cannot be used; nothing if it can."""
    if "PoCL 3.0-rc" in platform.version:
        return "PoCL 3.0 release candidates compute wrong results; PoCL 3.1 or later is needed"
    if not (device.available and device.compiler_available):
        return "it is not available, or its driver has no compiler"
    if _version(device.opencl_c_version) < (1, 2):
        return f"{device.opencl_c_version}; OpenCL C 1.2 is needed"
    if not device.endian_little:
        return "it is big-endian"
    return ""


def _version(text: str) -> tuple[int, int]:
    """(1, 2) of "OpenCL C 1.2 ..."."""
    major, _, minor = text.removeprefix("OpenCL C ").split()[0].partition(".")
    return int(major), int(minor or 0)


def _info(device: Any) -> DeviceInfo:
    kinds = cl.device_type
    kind = "gpu" if device.type & kinds.GPU else "cpu" if device.type & kinds.CPU else "accelerator"
    details = (device.platform.name.strip(), device.version.strip(), f"driver {device.driver_version.strip()}")
    return DeviceInfo(device.name.strip(), kind, device.global_mem_size, device.global_mem_size, details)

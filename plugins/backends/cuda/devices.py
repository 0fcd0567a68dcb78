"""Which GPUs the driver finds, and its errors as ours."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cu

from llamakit.backend import DeviceInfo
from llamakit.errors import BackendError, DeviceLostError, OutOfMemoryError

LEAST = (7, 5)  # compute capability that NVRTC of today compiles for
LEAST_DRIVER = 12000  # CUDA 12: cubins of any NVRTC 12 run
LOST = (
    "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR", "CUDA_ERROR_ILLEGAL_INSTRUCTION", "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_INVALID_PC", "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_ASSERT", "CUDA_ERROR_UNKNOWN",
)  # fmt: skip


def call(result: tuple[Any, ...], what: str, name: str = "") -> Any:
    """What a function of the driver gives, or its error as one of ours; `what` was done, with `name` in its place."""
    code, *values = result
    if code == cu.CUresult.CUDA_SUCCESS:
        return values[0] if len(values) == 1 else tuple(values)
    text = f"cuda: {what.format(name)}: {code.name}"
    if code == cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise OutOfMemoryError(text, hint="fewer layers on this device (-ngl), a smaller --ctx-size, or --kv-type q8_0")
    if code == cu.CUresult.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES:
        raise BackendError(text, found="its groups are too large for this GPU", hint="backend.cuda.lanes = 32")
    raise (DeviceLostError if code.name in LOST else BackendError)(text)


def found() -> list[DeviceInfo]:
    """The GPUs, as the driver counts them. BackendError says what is wrong with the driver."""
    try:
        code = cu.cuInit(0)[0]
    except Exception:  # the library is missing or too old to have the function
        raise BackendError("no NVIDIA driver is found: install that of the GPU, version 525 or later") from None
    if code == cu.CUresult.CUDA_ERROR_NO_DEVICE:
        return []
    call((code,), "starting the driver")
    version = call(cu.cuDriverGetVersion(), "version of the driver")
    if version < LEAST_DRIVER:
        raise BackendError(
            f"the NVIDIA driver is of CUDA {version // 1000}.{version % 1000 // 10}; version 525 (CUDA 12) or later is"
            " needed"
        )
    infos = [_info(i, version) for i in range(call(cu.cuDeviceGetCount(), "number of GPUs"))]
    if infos and not any(_usable(i) for i in range(len(infos))):
        raise BackendError(
            f"no GPU is of use: {'; '.join(f'{i.name}: {i.details[0]}' for i in infos)};"
            f" {LEAST[0]}.{LEAST[1]} or later is needed"
        )
    return infos


def refusal(index: int, info: DeviceInfo) -> str:
    """Why a GPU of those found cannot be used; nothing if it can."""
    return "" if _usable(index) else f"{info.name}: {info.details[0]}; {LEAST[0]}.{LEAST[1]} or later is needed"


def _usable(index: int) -> bool:
    return capability(call(cu.cuDeviceGet(index), "device")) >= LEAST


def capability(device: Any) -> tuple[int, int]:
    """Compute capability, such as (9, 0)."""
    names = cu.CUdevice_attribute
    major = call(cu.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), "capability")
    minor = call(cu.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), "capability")
    return major, minor


def _info(index: int, version: int) -> DeviceInfo:
    device = call(cu.cuDeviceGet(index), "device")
    name = call(cu.cuDeviceGetName(128, device), "name").split(b"\0")[0].decode(errors="replace").strip()
    major, minor = capability(device)
    total = int(call(cu.cuDeviceTotalMem(device), "memory"))
    details = (f"compute capability {major}.{minor}", f"driver of CUDA {version // 1000}.{version % 1000 // 10}")
    return DeviceInfo(name, "gpu", total, total, details)

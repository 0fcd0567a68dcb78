"""NVRTC: kernels to the code of one kind of GPU. No driver and no GPU are needed for it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from llamakit.errors import BackendError

OPTIONS = ("--std=c++17", "--ptxas-options=-v")


class Compiled(NamedTuple):
    """A cubin, and what the compiler said of it."""

    code: bytes
    log: str

    def worst(self) -> tuple[int, int]:
        """The most registers of a kernel, and the most bytes that one spills."""
        registers = [int(n) for n in re.findall(r"Used (\d+) registers", self.log)]
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill stores", self.log)]
        return max(registers, default=0), max(spills, default=0)


class CompileError(BackendError):
    """A kernel that does not compile; `log` is all that the compiler said."""

    log = ""


def version() -> str:
    """NVRTC's version. BackendError: it is not installed."""
    return ".".join(str(part) for part in _check(_nvrtc().nvrtcVersion()))


def compile_cubin(source: str, architecture: str, options: tuple[str, ...] = OPTIONS) -> Compiled:
    """The code of a source for an architecture such as sm_90."""
    nvrtc = _nvrtc()
    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, None, None))
    try:
        given = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in options)]
        code = nvrtc.nvrtcCompileProgram(program, len(given), given)[0]
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            error = CompileError(f"NVRTC does not compile a kernel for {architecture}: {code.name}")
            error.log = log
            raise error
        size = _check(nvrtc.nvrtcGetCUBINSize(program))
        cubin = bytes(size)
        _check(nvrtc.nvrtcGetCUBIN(program, cubin))
        return Compiled(cubin, log)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:  # the bindings, or the library that they look for
        raise BackendError(
            f"NVRTC, which compiles the kernels, is not found ({str(error).splitlines()[0]})",
            hint="pip install 'llamakit[cuda]'",
        ) from None
    return nvrtc


def _check(result: tuple[Any, ...]) -> Any:
    code, *values = result
    if int(code) != 0:
        raise BackendError(f"NVRTC: {code.name}")
    return values[0] if len(values) == 1 else tuple(values)


def _text(size: Any, get: Any, program: Any) -> str:
    buffer = bytes(_check(size(program)))
    _check(get(program, buffer))
    return buffer.rstrip(b"\0").decode(errors="replace")

"""cuBLAS by ctypes, where it is installed: products of float32 matrices for long prompts. All works without it."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llamakit.errors import BackendError

NAMES = ("cublas64_13.dll", "cublas64_12.dll") if sys.platform == "win32" else ("libcublas.so.13", "libcublas.so.12")
WORKSPACE = 32 << 20  # bytes; with memory of ours, sums have one order and products can be recorded in graphs
PLAIN, TRANSPOSED = 0, 1  # cublasOperation_t


def library() -> Any:
    """The library, of NVIDIA's wheels or the system; None where there is none."""
    places = [str(path) for folder in _wheels() for name in NAMES for path in folder.rglob(name)]
    for name in (*places, *NAMES, find_library("cublas")):
        if name:
            with suppress(OSError):
                return ctypes.CDLL(name)
    return None


def version(found: Any) -> str:
    """The library's version; nothing where it does not say."""
    parts = []
    for number in range(3):  # MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL
        value = ctypes.c_int()
        if found.cublasGetProperty(number, ctypes.byref(value)) != 0:
            return ""
        parts.append(str(value.value))
    return ".".join(parts)


def _wheels() -> list[Path]:
    spec = find_spec("nvidia")
    folders = [Path(each) for each in (spec.submodule_search_locations or ())] if spec else []
    return [folder / part for folder in folders for part in ("cublas", "cu13", "cu12") if (folder / part).is_dir()]


def columns(row: int, column: int) -> tuple[int, int] | None:
    """How BLAS is given the transpose of a matrix whose element (i, j) lies `row` * i + `column` * j further on.

    The operation, and the step of what BLAS takes for columns; None where neither rows nor columns lie in one piece.
    """
    if column == 1:
        return PLAIN, row
    return (TRANSPOSED, column) if row == 1 else None


class CuBLAS:
    """A handle of the library in the context that is current, for one stream; `workspace`: an address on the GPU."""

    def __init__(self, found: Any, stream: int, workspace: int) -> None:
        self.library, self.handle = found, ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self.handle))
        self._call("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))
        self._call("cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(workspace), ctypes.c_size_t(WORKSPACE))

    def multiply(
        self, a: int, b: int, c: int, shape: tuple[int, int, int], steps: tuple[int, int, int, int, int], *, add: bool
    ) -> bool:
        """c (+)= a b as matmul.cl has it, at these addresses. False: BLAS knows no way in which they lie."""
        (m, n, k), (a_row, a_col, b_row, b_col, c_row) = shape, steps
        left, right = columns(a_row, a_col), columns(b_row, b_col)
        if left is None or right is None:
            return False
        one, beta = ctypes.c_float(1.0), ctypes.c_float(1.0 if add else 0.0)
        # Rows of ours are BLAS's columns, so it makes the transposed product: c^T = b^T a^T.
        self._call(
            "cublasSgemm_v2", self.handle, right[0], left[0], n, m, k, ctypes.byref(one), ctypes.c_void_p(b), right[1],
            ctypes.c_void_p(a), left[1], ctypes.byref(beta), ctypes.c_void_p(c), c_row,
        )  # fmt: skip
        return True

    def close(self) -> None:
        """Give the handle back."""
        if self.handle:
            self.library.cublasDestroy_v2(self.handle)
            self.handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self.library, name)(*arguments)
        if code != 0:
            raise BackendError(f"cuBLAS: {name} ends with code {code}", hint="backend.cuda.cublas = false")

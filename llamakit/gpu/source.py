"""Kernels: which files make a module, and what is defined for it."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamakit.errors import BackendError
from llamakit.gguf import GGMLType, quants
from llamakit.gpu.driver import At
from llamakit.gpu.packed import defines as packed_defines

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llamakit.gpu.driver import Argument, Driver, Feature, Traits

FOLDER = Path(__file__).with_name("kernels")
GROUP_MATMUL = 64  # items of a group of matmul.cl and panel_tiles.cl
SIDE = 32  # rows and columns that such a group makes
TOP_WIDTH = 64  # items of a group of top.cl
MOST = 2**31 - 1  # of elements of a value or a state, and of numbers that kernels are given
FEW_UNITS = 64  # of one item, that are shared out one by one
CHUNK = 64  # scores that attention has at once
LEVELS = {  # the values of the grids' levels, by type: see `llamakit.gguf.quants_grid`
    "IQ1_S": ("iq1", (-8, 0, 8)),
    "IQ1_M": ("iq1", (-8, 0, 8)),
    "IQ2_XXS": ("iq2_xxs", (8, 25, 43)),
    "IQ2_XS": ("iq2_xs", (8, 25, 43)),
    "IQ2_S": ("iq2_s", (8, 25, 43)),
    "IQ3_XXS": ("iq3_xxs", (4, 12, 20, 28, 36, 44, 52, 62)),
    "IQ3_S": ("iq3_s", (1, 3, 5, 7, 9, 11, 13, 15)),
}
NAMED = {GGMLType.IQ4_NL: quants.IQ4, GGMLType.IQ4_XS: quants.IQ4, GGMLType.MXFP4: quants.FP4}


@cache
def read(name: str) -> str:
    """A file of the sources."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def tables(type: GGMLType) -> str:
    """The values that codes of a type stand for; nothing for types whose codes are numbers."""
    if type in NAMED:
        return f"CONSTANT signed char NAMED[] = {{{','.join(map(str, NAMED[type].tolist()))}}};\n"
    if type.name not in LEVELS:
        return ""
    from llamakit.gguf.grids import points

    name, levels = LEVELS[type.name]
    values = ",".join(str(levels[level]) for level in points(name).reshape(-1).tolist())
    width = points(name).shape[1]
    return f"#define WIDTH {width}\nCONSTANT signed char GRID[] = {{{values}}};\n"


def type_defines(type: GGMLType, *, packed: bool = False) -> dict[str, int | str]:
    """What formats.cl and panels.cl need to know of a type; those without blocks are taken 32 values at a time."""
    block = max(type.block_size, 32)
    found: dict[str, int | str] = {f"TYPE_{type.name}": 1, "BLOCK": block, "BYTES": type.n_bytes(block)}
    if packed:
        found |= packed_defines(type)
        words = NAMED[type].view("<u4").tolist() if type in NAMED else []
        found |= {f"NAMED_{i}": f"{word:#010x}u" for i, word in enumerate(words)}
    return found


def stored_defines(kv_type: str) -> dict[str, int | str]:
    """What cells.cl needs to know of the type of a cache."""
    type = GGMLType[kv_type.upper()]
    return {f"KV_{type.name}": 1, "STORED_BLOCK": type.block_size, "STORED_BYTES": type.type_size}


def module_text(
    traits: Traits, file: str, defines: Mapping[str, int | str], type: GGMLType | None = None, *, packed: bool = False
) -> str:
    """The source of a module for a device; `file` may name several, such as "states+own"."""
    of_type = {} if type is None else type_defines(type, packed=packed)
    sizes = {"LANES": traits.lanes, "CHUNK": CHUNK, "SIDE": SIDE, "GROUP_MATMUL": GROUP_MATMUL}
    given = {**sizes, **defines} | of_type
    lines = [f"#define {name} {value}" for name, value in given.items()]
    parts = [*lines, read(f"prelude_{traits.language}.h"), read("common.cl")]
    if type is not None:
        parts += [read("panels.cl")] if packed else [tables(type), read("formats.cl")]
    return "\n".join([*parts, *(read(f"{each}.cl") for each in file.split("+"))])


@cache
def text_key() -> str:
    """A name for all that the files of the sources say: what was found out with them holds no longer than that."""
    text = "\0".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir()))
    return hashlib.sha256(text.encode()).hexdigest()


def kernel_names(text: str) -> str:
    """The kernels that a source has, for people."""
    return ", ".join(re.findall(r"^(?:KERNEL|__kernel) void (\w+)", text, re.MULTILINE)) or "no kernel"


def too_large(what: str) -> BackendError:
    """The error of what has more elements than kernels count."""
    return BackendError(
        f"{what} is too large for this backend, whose kernels count to {MOST:,}",
        hint="a smaller --batch-size, or --backend cpu",
    )


Defines = dict[str, int | str]
NOTHING: Defines = {}


class Kernels:
    """The kernels of a device, each compiled when it is first asked for."""

    def __init__(self, driver: Driver) -> None:
        self.driver, self.traits = driver, driver.traits
        self._modules: dict[str, Any] = {}
        self._kernels: dict[tuple[Any, ...], Any] = {}
        self._scratch: dict[str, At] = {}

    def get(
        self,
        name: str,
        file: str = "basic",
        type: GGMLType | None = None,
        defines: Defines = NOTHING,
        *,
        packed: bool = False,
    ) -> Any:
        """The kernel `name` of a file of the sources; `packed`: for tensors in panels."""
        key = (name, file, type, packed, *sorted(defines.items()))
        if key not in self._kernels:
            text = module_text(self.traits, file, defines, type, packed=packed)
            if text not in self._modules:
                self._modules[text] = self.driver.build(text)
            self._kernels[key] = self.driver.kernel(self._modules[text], name)
        return self._kernels[key]

    def own(self, name: str, file: str, text: str) -> Any:
        """The kernel `name` of a text that follows a file of the sources."""
        key = (name, file, text)
        if key not in self._kernels:
            module = self.driver.build(module_text(self.traits, file, {}) + text)
            self._kernels[key] = self.driver.kernel(module, name)
        return self._kernels[key]

    def settle(self, feature: Feature) -> None:
        """Before a feature of the driver is used: see that it is right, or not used."""
        if feature in self.driver.features and feature not in self.driver.tried:
            from llamakit.gpu.selftest import settle

            settle(self, feature)

    def items(self, kernel: Any, n: int, *arguments: Argument) -> None:
        """Run a kernel whose items have nothing to do with one another."""
        if n > 0:
            self._launch(kernel, -(-n // self.traits.items), self.traits.items, arguments)

    def units(self, kernel: Any, n: int, *arguments: Argument) -> None:
        """Run a kernel of units, each of `lanes` items. Those of one item are groups of their own if they are few."""
        if self.traits.lanes == 1:
            items = 1 if n <= FEW_UNITS else self.traits.items
            if n > 0:
                self._launch(kernel, -(-n // items), items, arguments)
        elif n > 0:
            self._launch(kernel, n, self.traits.lanes, arguments)

    def groups(self, kernel: Any, n: int, n_item: int, *arguments: Argument) -> None:
        """Run a kernel of groups of a fixed size."""
        if n > 0:
            self._launch(kernel, n, n_item, arguments)

    def _launch(self, kernel: Any, n_group: int, n_item: int, arguments: tuple[Argument, ...]) -> None:
        """Launch it, if its numbers are such as kernels have: 32 bits."""
        if n_group > MOST or any(isinstance(each, int) and not -MOST <= each <= MOST for each in arguments):
            most = max(n_group, *(abs(each) for each in arguments if isinstance(each, int)))
            raise too_large(f"a step of {most:,} elements")
        self.driver.launch(kernel, n_group, n_item, arguments)

    def scratch(self, name: str, n_bytes: int) -> At:
        """Memory for what is done with before the next use of that name."""
        found = self._scratch.get(name)
        if found is None or found.block.n_bytes < n_bytes:
            self._scratch.pop(name, None)
            found = self._scratch[name] = At(self.driver.allocate(n_bytes))
        return found

    def clear(self) -> None:
        """Forget all: the device was lost."""
        self._modules, self._kernels, self._scratch = {}, {}, {}

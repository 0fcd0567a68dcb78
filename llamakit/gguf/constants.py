"""Numbers of the GGUF format: tensor types, and the types of metadata values.

Source: the GGUF specification, docs/gguf.md of the ggml project.
"""

from __future__ import annotations

from enum import IntEnum

from llamakit._formats import types

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32

# Limits that reader (cpp/formats/gguf.cpp) and writer keep.
MAX_ALIGNMENT = 1 << 20
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 4096
MAX_DIMS = 4


class ValueType(IntEnum):
    """Types of metadata values."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# Of cpp/formats/types.inc, by name: number in the file, values and bytes of a block.
TYPES: dict[str, tuple[int, int, int]] = types


class GGMLType(IntEnum):
    """Types of tensors, by their number in the file. A row is stored as blocks of `block_size` values."""

    F32 = TYPES["F32"][0]
    F16 = TYPES["F16"][0]
    Q4_0 = TYPES["Q4_0"][0]
    Q4_1 = TYPES["Q4_1"][0]
    Q5_0 = TYPES["Q5_0"][0]
    Q5_1 = TYPES["Q5_1"][0]
    Q8_0 = TYPES["Q8_0"][0]
    Q8_1 = TYPES["Q8_1"][0]
    Q2_K = TYPES["Q2_K"][0]
    Q3_K = TYPES["Q3_K"][0]
    Q4_K = TYPES["Q4_K"][0]
    Q5_K = TYPES["Q5_K"][0]
    Q6_K = TYPES["Q6_K"][0]
    Q8_K = TYPES["Q8_K"][0]
    IQ2_XXS = TYPES["IQ2_XXS"][0]
    IQ2_XS = TYPES["IQ2_XS"][0]
    IQ3_XXS = TYPES["IQ3_XXS"][0]
    IQ1_S = TYPES["IQ1_S"][0]
    IQ4_NL = TYPES["IQ4_NL"][0]
    IQ3_S = TYPES["IQ3_S"][0]
    IQ2_S = TYPES["IQ2_S"][0]
    IQ4_XS = TYPES["IQ4_XS"][0]
    I8 = TYPES["I8"][0]
    I16 = TYPES["I16"][0]
    I32 = TYPES["I32"][0]
    I64 = TYPES["I64"][0]
    F64 = TYPES["F64"][0]
    IQ1_M = TYPES["IQ1_M"][0]
    BF16 = TYPES["BF16"][0]
    TQ1_0 = TYPES["TQ1_0"][0]
    TQ2_0 = TYPES["TQ2_0"][0]
    MXFP4 = TYPES["MXFP4"][0]

    @property
    def block_size(self) -> int:
        """Values in a block."""
        return TYPES[self.name][1]

    @property
    def type_size(self) -> int:
        """Bytes of a block."""
        return TYPES[self.name][2]

    def n_bytes(self, n_values: int) -> int:
        """Bytes of `n_values` values, a multiple of the block size."""
        return n_values // self.block_size * self.type_size

// Block formats of GGUF tensors, one row at a time. The numpy in llamakit/gguf/quants.py defines them.
#pragma once

#include <cstdint>

#include "formats/types.h"

namespace lk::formats {

// Bytes of a row of n values; throws std::invalid_argument if n is no multiple of the block or the type cannot be
// decoded.
int64_t row_bytes(int type, int64_t n);

// Decode n values, a multiple of the block size.
void dequantize_row(int type, const void* source, float* destination, int64_t n);

// Encode n values, a multiple of the block size; throws std::invalid_argument if the type can only be decoded.
void quantize_row(int type, const float* source, void* destination, int64_t n);

}  // namespace lk::formats

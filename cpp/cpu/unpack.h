// One row of a block format as integers, scales and mins: value = scale * (u - bias) + min.
#pragma once
#include <cstdint>

#include "cpu/types.h"

namespace lk::cpu {

struct Unpacked {
    uint8_t* u;     // n values
    float* scales;  // n / block
    float* mins;    // n / block, untouched without mins
};

// The format a quantised GGUF type is packed to; throws std::invalid_argument for other types.
PanelFormat format_of(int type);

void unpack_row(int type, const uint8_t* source, int64_t n, Unpacked out);

}  // namespace lk::cpu

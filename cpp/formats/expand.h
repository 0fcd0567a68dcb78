// The formats whose codes name points of grids (IQ1, IQ2, IQ3), and the ternary TQ, as small integers.
#pragma once

#include <cstdint>

namespace lk::formats {

// 256 values: d / divisor * scale * q, a scale for each 16 of them.
struct Expanded {
    uint16_t d;
    int8_t scales[16];
    int8_t q[256];
};

// The divisor of a type that `expand` takes, 0 for others.
int divisor(int type);

// One block of such a type, at any address.
void expand(int type, const uint8_t* block, Expanded* out);

// dequantize_row for these types.
void dequantize_expanded_row(int type, const void* source, float* destination, int64_t n);

}  // namespace lk::formats

// Bytes to float32. Each function decodes one block; multiplications are in the order of the numpy definition.
#include <cstring>
#include <stdexcept>
#include <string>

#include "formats/blocks.h"
#include "formats/expand.h"
#include "formats/half.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::formats {
namespace {

void decode(const BlockQ4_0& b, float* y) {
    const float d = half_to_float(b.d);
    for (int i = 0; i < 16; ++i) {
        y[i] = d * float((b.qs[i] & 15) - 8);
        y[i + 16] = d * float((b.qs[i] >> 4) - 8);
    }
}

void decode(const BlockQ4_1& b, float* y) {
    const float d = half_to_float(b.d), m = half_to_float(b.m);
    for (int i = 0; i < 16; ++i) {
        y[i] = d * float(b.qs[i] & 15) + m;
        y[i + 16] = d * float(b.qs[i] >> 4) + m;
    }
}

void decode(const BlockQ5_0& b, float* y) {
    const float d = half_to_float(b.d);
    for (int i = 0; i < 32; ++i) y[i] = d * float(five_bits(b.qs, b.qh, i) - 16);
}

void decode(const BlockQ5_1& b, float* y) {
    const float d = half_to_float(b.d), m = half_to_float(b.m);
    for (int i = 0; i < 32; ++i) y[i] = d * float(five_bits(b.qs, b.qh, i)) + m;
}

void decode(const BlockQ8_0& b, float* y) {
    const float d = half_to_float(b.d);
    for (int i = 0; i < 32; ++i) y[i] = d * float(b.qs[i]);
}

void decode(const BlockQ2_K& b, float* y) {
    const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
    for (int i = 0; i < 256; ++i) {
        const float scale = d * float(b.scales[i / 16] & 15), minimum = dmin * float(b.scales[i / 16] >> 4);
        y[i] = scale * float(crumb(b.qs, i)) - minimum;
    }
}

void decode(const BlockQ3_K& b, float* y) {
    int8_t scales[16];
    unpack_scales_q3_k(b.scales, scales);
    const float d = half_to_float(b.d);
    for (int i = 0; i < 256; ++i) {
        const int high = (b.hmask[i % 32] >> (i / 32)) & 1;
        y[i] = d * float(scales[i / 16]) * float(crumb(b.qs, i) - (high ? 0 : 4));
    }
}

void decode(const BlockQ4_K& b, float* y) {
    uint8_t scales[8], minima[8];
    unpack_scale_min_k4(b.scales, scales, minima);
    const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
    for (int j = 0; j < 8; ++j) {
        const float scale = d * float(scales[j]), minimum = dmin * float(minima[j]);
        for (int i = 0; i < 32; ++i) y[32 * j + i] = scale * float(nibble_k(b.qs, j, i)) - minimum;
    }
}

void decode(const BlockQ5_K& b, float* y) {
    uint8_t scales[8], minima[8];
    unpack_scale_min_k4(b.scales, scales, minima);
    const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
    for (int j = 0; j < 8; ++j) {
        const float scale = d * float(scales[j]), minimum = dmin * float(minima[j]);
        for (int i = 0; i < 32; ++i) {
            const int q = nibble_k(b.qs, j, i) | (((b.qh[i] >> j) & 1) << 4);
            y[32 * j + i] = scale * float(q) - minimum;
        }
    }
}

void decode(const BlockQ6_K& b, float* y) {
    const float d = half_to_float(b.d);
    for (int i = 0; i < 256; ++i) y[i] = d * float(b.scales[i / 16]) * float(six_bits(b.ql, b.qh, i) - 32);
}

// 32 values whose codes, 16 bytes of nibbles, name those of a table.
void decode_named(const uint8_t* qs, const int8_t (&table)[16], float d, float* y) {
    for (int i = 0; i < 16; ++i) {
        y[i] = d * float(table[qs[i] & 15]);
        y[i + 16] = d * float(table[qs[i] >> 4]);
    }
}

void decode(const BlockIQ4_NL& b, float* y) {
    decode_named(b.qs, kIQ4, half_to_float(b.d), y);
}

void decode(const BlockIQ4_XS& b, float* y) {
    const float d = half_to_float(b.d);
    for (int s = 0; s < 8; ++s) decode_named(b.qs + 16 * s, kIQ4, d * float(scale_iq4_xs(b, s)), y + 32 * s);
}

void decode(const BlockMXFP4& b, float* y) {
    decode_named(b.qs, kFP4, power_of_two(b.e), y);
}

void decode(const BlockQ8_K& b, float* y) {
    for (int i = 0; i < 256; ++i) y[i] = b.d * float(b.qs[i]);
}

template <class Block>
void decode_row(const void* source, float* y, int64_t n) {
    constexpr int size = sizeof(Block) > 36 ? 256 : 32;
    const auto* bytes = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; i += size, bytes += sizeof(Block)) {
        Block block;  // a copy, since blocks of a file may lie at any address
        std::memcpy(&block, bytes, sizeof block);
        decode(block, y + i);
    }
}

template <float (*convert)(uint16_t)>
void decode_16(const void* source, float* y, int64_t n) {
    const auto* bytes = static_cast<const uint8_t*>(source);
    for (int64_t i = 0; i < n; ++i) {
        uint16_t x;
        std::memcpy(&x, bytes + 2 * i, 2);
        y[i] = convert(x);
    }
}

}  // namespace

void dequantize_row(int type, const void* source, float* destination, int64_t n) {
    row_bytes(type, n);  // checks type and n
    switch (type) {
        case F32:
            std::memcpy(destination, source, size_t(n) * 4);
            break;
        case F16:
            decode_16<half_to_float>(source, destination, n);
            break;
        case BF16:
            decode_16<bfloat_to_float>(source, destination, n);
            break;
        case Q4_0:
            decode_row<BlockQ4_0>(source, destination, n);
            break;
        case Q4_1:
            decode_row<BlockQ4_1>(source, destination, n);
            break;
        case Q5_0:
            decode_row<BlockQ5_0>(source, destination, n);
            break;
        case Q5_1:
            decode_row<BlockQ5_1>(source, destination, n);
            break;
        case Q8_0:
            decode_row<BlockQ8_0>(source, destination, n);
            break;
        case Q2_K:
            decode_row<BlockQ2_K>(source, destination, n);
            break;
        case Q3_K:
            decode_row<BlockQ3_K>(source, destination, n);
            break;
        case Q4_K:
            decode_row<BlockQ4_K>(source, destination, n);
            break;
        case Q5_K:
            decode_row<BlockQ5_K>(source, destination, n);
            break;
        case Q6_K:
            decode_row<BlockQ6_K>(source, destination, n);
            break;
        case Q8_K:
            decode_row<BlockQ8_K>(source, destination, n);
            break;
        case IQ4_NL:
            decode_row<BlockIQ4_NL>(source, destination, n);
            break;
        case IQ4_XS:
            decode_row<BlockIQ4_XS>(source, destination, n);
            break;
        case MXFP4:
            decode_row<BlockMXFP4>(source, destination, n);
            break;
        default:
            dequantize_expanded_row(type, source, destination, n);
    }
}

}  // namespace lk::formats

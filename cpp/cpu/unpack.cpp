#include "cpu/unpack.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "formats/blocks.h"
#include "formats/half.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::cpu {
namespace {
using namespace lk::formats;

void unpack(const BlockQ4_0& b, Unpacked o) {
    for (int i = 0; i < 32; ++i) o.u[i] = uint8_t(i < 16 ? b.qs[i] & 15 : b.qs[i - 16] >> 4);
    o.scales[0] = half_to_float(b.d);
}

void unpack(const BlockQ4_1& b, Unpacked o) {
    for (int i = 0; i < 32; ++i) o.u[i] = uint8_t(i < 16 ? b.qs[i] & 15 : b.qs[i - 16] >> 4);
    o.scales[0] = half_to_float(b.d), o.mins[0] = half_to_float(b.m);
}

void unpack(const BlockQ5_0& b, Unpacked o) {
    for (int i = 0; i < 32; ++i) o.u[i] = uint8_t(five_bits(b.qs, b.qh, i));
    o.scales[0] = half_to_float(b.d);
}

void unpack(const BlockQ5_1& b, Unpacked o) {
    for (int i = 0; i < 32; ++i) o.u[i] = uint8_t(five_bits(b.qs, b.qh, i));
    o.scales[0] = half_to_float(b.d), o.mins[0] = half_to_float(b.m);
}

void unpack(const BlockQ8_0& b, Unpacked o) {
    for (int i = 0; i < 32; ++i) o.u[i] = uint8_t(b.qs[i] + 128);
    o.scales[0] = half_to_float(b.d);
}

void unpack(const BlockQ2_K& b, Unpacked o) {
    for (int i = 0; i < 256; ++i) o.u[i] = uint8_t(crumb(b.qs, i));
    for (int j = 0; j < 16; ++j) {
        o.scales[j] = half_to_float(b.d) * float(b.scales[j] & 15);
        o.mins[j] = -(half_to_float(b.dmin) * float(b.scales[j] >> 4));
    }
}

void unpack(const BlockQ3_K& b, Unpacked o) {
    int8_t scales[16];
    unpack_scales_q3_k(b.scales, scales);
    for (int i = 0; i < 256; ++i) o.u[i] = uint8_t(crumb(b.qs, i) + 4 * ((b.hmask[i % 32] >> (i / 32)) & 1));
    for (int j = 0; j < 16; ++j) o.scales[j] = half_to_float(b.d) * float(scales[j]);
}

// Scales and mins of Q4_K and Q5_K.
template <class Block>
void unpack_scales(const Block& b, Unpacked o) {
    uint8_t scales[8], minima[8];
    unpack_scale_min_k4(b.scales, scales, minima);
    for (int j = 0; j < 8; ++j) {
        o.scales[j] = half_to_float(b.d) * float(scales[j]);
        o.mins[j] = -(half_to_float(b.dmin) * float(minima[j]));
    }
}

void unpack(const BlockQ4_K& b, Unpacked o) {
    for (int i = 0; i < 256; ++i) o.u[i] = uint8_t(nibble_k(b.qs, i / 32, i % 32));
    unpack_scales(b, o);
}

void unpack(const BlockQ5_K& b, Unpacked o) {
    for (int i = 0; i < 256; ++i)
        o.u[i] = uint8_t(nibble_k(b.qs, i / 32, i % 32) | (((b.qh[i % 32] >> (i / 32)) & 1) << 4));
    unpack_scales(b, o);
}

void unpack(const BlockQ6_K& b, Unpacked o) {
    for (int i = 0; i < 256; ++i) o.u[i] = uint8_t(six_bits(b.ql, b.qh, i));
    for (int j = 0; j < 16; ++j) o.scales[j] = half_to_float(b.d) * float(b.scales[j]);
}

void unpack(const BlockQ8_K& b, Unpacked o) {
    for (int i = 0; i < 256; ++i) o.u[i] = uint8_t(b.qs[i] + 128);
    for (int j = 0; j < 8; ++j) o.scales[j] = b.d;
}

template <class Block>
void unpack_blocks(int type, const uint8_t* source, int64_t n, Unpacked o) {
    const int size = traits(type)->block_size, per_scale = format_of(type).block;
    for (int64_t i = 0; i < n; i += size, source += sizeof(Block)) {
        Block block;
        std::memcpy(&block, source, sizeof block);
        unpack(block, {o.u + i, o.scales + i / per_scale, o.mins + i / per_scale});
    }
}

}  // namespace

PanelFormat format_of(int type) {
    switch (type) {
        case Q4_0:
            return {false, 32, true, false, 8};
        case Q4_1:
            return {false, 32, true, true, 0};
        case Q5_0:
            return {true, 32, true, false, 16};
        case Q5_1:
            return {true, 32, true, true, 0};
        case Q8_0:
            return {true, 32, true, false, 128};
        case Q2_K:
            return {false, 16, false, true, 0};
        case Q3_K:
            return {false, 16, false, false, 4};
        case Q4_K:
            return {false, 32, false, true, 0};
        case Q5_K:
            return {true, 32, false, true, 0};
        case Q6_K:
            return {true, 16, false, false, 32};
        case Q8_K:
            return {true, 32, false, false, 128};
    }
    throw std::invalid_argument("tensor type " + std::to_string(type) + " is not supported by the cpu backend");
}

void unpack_row(int type, const uint8_t* source, int64_t n, Unpacked o) {
    switch (type) {
        case Q4_0:
            return unpack_blocks<BlockQ4_0>(type, source, n, o);
        case Q4_1:
            return unpack_blocks<BlockQ4_1>(type, source, n, o);
        case Q5_0:
            return unpack_blocks<BlockQ5_0>(type, source, n, o);
        case Q5_1:
            return unpack_blocks<BlockQ5_1>(type, source, n, o);
        case Q8_0:
            return unpack_blocks<BlockQ8_0>(type, source, n, o);
        case Q2_K:
            return unpack_blocks<BlockQ2_K>(type, source, n, o);
        case Q3_K:
            return unpack_blocks<BlockQ3_K>(type, source, n, o);
        case Q4_K:
            return unpack_blocks<BlockQ4_K>(type, source, n, o);
        case Q5_K:
            return unpack_blocks<BlockQ5_K>(type, source, n, o);
        case Q6_K:
            return unpack_blocks<BlockQ6_K>(type, source, n, o);
        case Q8_K:
            return unpack_blocks<BlockQ8_K>(type, source, n, o);
    }
}

}  // namespace lk::cpu

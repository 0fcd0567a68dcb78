// Where the bits of value i lie in the packed fields of the block formats.
#pragma once

#include <cstdint>

#include "formats/blocks.h"

namespace lk::formats {

// Blocks of 32: byte i % 16 holds values i and i + 16; fifth bits are bits of a little-endian word.
inline int five_bits(const uint8_t* qs, const uint8_t* qh, int i) {
    const int low = i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
    return low | (((qh[i / 8] >> (i % 8)) & 1) << 4);
}

// Q2_K, Q3_K: two bits; byte 32 h + l holds values 128 h + l, + 32, + 64, + 96.
inline int crumb(const uint8_t* qs, int i) {
    return (qs[32 * (i / 128) + i % 32] >> (2 * ((i / 32) % 4))) & 3;
}

// Q4_K, Q5_K: sub-blocks 2 j and 2 j + 1 share 32 bytes.
inline int nibble_k(const uint8_t* qs, int sub, int i) {
    return (qs[32 * (sub / 2) + i] >> (4 * (sub % 2))) & 15;
}

// Q6_K: four bits in `ql` (64 bytes a half), two in `qh` (as crumbs).
inline int six_bits(const uint8_t* ql, const uint8_t* qh, int i) {
    const int part = i / 128, group = (i / 32) % 4, l = i % 32;
    const int low = (ql[64 * part + 32 * (group % 2) + l] >> (4 * (group / 2))) & 15;
    return low | (crumb(qh, i) << 4);
}

// 12 bytes to 8 scales and 8 minima of six bits.
inline void unpack_scale_min_k4(const uint8_t* s, uint8_t* scales, uint8_t* minima) {
    for (int j = 0; j < 4; ++j) {
        scales[j] = s[j] & 63;
        minima[j] = s[j + 4] & 63;
        scales[j + 4] = uint8_t((s[j + 8] & 15) | ((s[j] >> 6) << 4));
        minima[j + 4] = uint8_t((s[j + 8] >> 4) | ((s[j + 4] >> 6) << 4));
    }
}

inline void pack_scale_min_k4(const uint8_t* scales, const uint8_t* minima, uint8_t* s) {
    for (int j = 0; j < 4; ++j) {
        s[j] = uint8_t((scales[j] & 63) | ((scales[j + 4] >> 4) << 6));
        s[j + 4] = uint8_t((minima[j] & 63) | ((minima[j + 4] >> 4) << 6));
        s[j + 8] = uint8_t((scales[j + 4] & 15) | ((minima[j + 4] & 15) << 4));
    }
}

// 12 bytes to 16 scales of six bits, less 32.
inline void unpack_scales_q3_k(const uint8_t* s, int8_t* scales) {
    for (int j = 0; j < 16; ++j) {
        const int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
        const int high = (s[8 + j % 4] >> (2 * (j / 4))) & 3;
        scales[j] = int8_t((low | (high << 4)) - 32);
    }
}

// What follows is of internal linkage, since the kernels use it too, which are compiled for several instruction sets.

// What the codes of IQ4_NL and IQ4_XS, and those of MXFP4 (doubled), stand for.
constexpr int8_t kIQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kFP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// IQ4_XS: the six bits of a scale, less 32.
static inline int scale_iq4_xs(const BlockIQ4_XS& b, int sub) {
    return (((b.scales_l[sub / 2] >> (sub % 2 * 4)) & 15) | ((b.scales_h >> (2 * sub)) & 3) << 4) - 32;
}

// Half of the scale that a byte of E8M0 is, 2^(e - 128).
static inline float power_of_two(uint8_t e) {
    const uint32_t bits = e < 2 ? uint32_t(0x00200000) << e : uint32_t(e - 1) << 23;
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

}  // namespace lk::formats

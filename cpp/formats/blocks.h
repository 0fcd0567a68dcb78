// The block layouts, byte for byte as in a GGUF file (little-endian). `d` scales, `m` or `dmin` is a minimum.
#pragma once

#include <cstdint>

namespace lk::formats {

using half = uint16_t;

struct BlockQ4_0 {
    half d;
    uint8_t qs[16];
};
struct BlockQ4_1 {
    half d, m;
    uint8_t qs[16];
};
struct BlockQ5_0 {
    half d;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ5_1 {
    half d, m;
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ8_0 {
    half d;
    int8_t qs[32];
};
struct BlockQ2_K {
    uint8_t scales[16];
    uint8_t qs[64];
    half d, dmin;
};
struct BlockQ3_K {
    uint8_t hmask[32];
    uint8_t qs[64];
    uint8_t scales[12];
    half d;
};
struct BlockQ4_K {
    half d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
};
struct BlockQ5_K {
    half d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];
    uint8_t qs[128];
};
struct BlockQ6_K {
    uint8_t ql[128];
    uint8_t qh[64];
    int8_t scales[16];
    half d;
};
struct BlockQ8_K {
    float d;
    int8_t qs[256];
    int16_t bsums[16];
};
struct BlockIQ4_NL {
    half d;
    uint8_t qs[16];
};
struct BlockIQ4_XS {
    half d;
    uint16_t scales_h;
    uint8_t scales_l[4];
    uint8_t qs[128];
};
struct BlockMXFP4 {
    uint8_t e;
    uint8_t qs[16];
};
// Words of two and four bytes in `extra` and `scales` (and `qs` of IQ2) are little-endian.
struct BlockTQ1_0 {
    uint8_t qs[48], qh[4];
    half d;
};
struct BlockTQ2_0 {
    uint8_t qs[64];
    half d;
};
struct BlockIQ1_S {
    half d;
    uint8_t qs[32], extra[16];
};
struct BlockIQ1_M {
    uint8_t qs[32], extra[16], scales[8];
};
struct BlockIQ2_XXS {
    half d;
    uint8_t qs[64];
};
struct BlockIQ2_XS {
    half d;
    uint8_t qs[64], scales[8];
};
struct BlockIQ2_S {
    half d;
    uint8_t qs[32], signs[32], qh[8], scales[8];
};
struct BlockIQ3_XXS {
    half d;
    uint8_t qs[64], extra[32];
};
struct BlockIQ3_S {
    half d;
    uint8_t qs[64], qh[8], signs[32], scales[4];
};

#define LK_SIZE_block(name, bytes) static_assert(sizeof(Block##name) == bytes);
#define LK_SIZE_plain(name, bytes)
#define LK_SIZE_size_only(name, bytes)
#define X(name, number, values, bytes, kind) LK_SIZE_##kind(name, bytes)
#include "formats/types.inc"
#undef X
#undef LK_SIZE_block
#undef LK_SIZE_plain
#undef LK_SIZE_size_only

}  // namespace lk::formats

// Codes of the grid and ternary formats to small integers. Layouts and meaning: llamakit/gguf/quants_grid.py.
#include "formats/expand.h"

#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>

#include "formats/blocks.h"
#include "formats/grids.inc"
#include "formats/half.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::formats {
namespace {

template <int kWidth>
using Point = std::array<int8_t, kWidth>;

constexpr int sextet(char c) {
    return c >= 'a' ? c - 'a' + 26 : c >= 'A' ? c - 'A' : c >= '0' ? c - '0' + 52 : c == '+' ? 62 : 63;
}

// The points of a grid: bit i of the base64 says whether number i is one, whose digits (the lowest first) name values.
template <int kCodes, int kWidth, int kLevels>
constexpr std::array<Point<kWidth>, kCodes> grid(const char* set, const int8_t (&values)[kLevels]) {
    std::array<Point<kWidth>, kCodes> made{};
    for (int number = 0, code = 0; code < kCodes; ++number) {
        if (((sextet(set[number / 6]) >> (5 - number % 6)) & 1) == 0) continue;
        Point<kWidth>& point = made[size_t(code++)];
        for (int i = 0, rest = number; i < kWidth; ++i, rest /= kLevels) point[size_t(i)] = values[rest % kLevels];
    }
    return made;
}

constexpr int8_t kLevels1[] = {-8, 0, 8}, kLevels2[] = {8, 25, 43};
constexpr int8_t kLevels3xxs[] = {4, 12, 20, 28, 36, 44, 52, 62}, kLevels3s[] = {1, 3, 5, 7, 9, 11, 13, 15};
constexpr auto kGrid1 = grid<2048, 8>(kSet_iq1, kLevels1);
constexpr auto kGrid2xxs = grid<256, 8>(kSet_iq2_xxs, kLevels2);
constexpr auto kGrid2xs = grid<512, 8>(kSet_iq2_xs, kLevels2);
constexpr auto kGrid2s = grid<1024, 8>(kSet_iq2_s, kLevels2);
constexpr auto kGrid3xxs = grid<256, 4>(kSet_iq3_xxs, kLevels3xxs);
constexpr auto kGrid3s = grid<512, 4>(kSet_iq3_s, kLevels3s);

template <class Word>
Word word(const uint8_t* bytes, int i) {
    Word w;
    std::memcpy(&w, bytes + i * int(sizeof w), sizeof w);
    return w;
}

int nibble(const uint8_t* bytes, int i) {
    return (bytes[i / 2] >> (i % 2 * 4)) & 15;
}

// Seven signs, and an eighth that makes the number of minuses even.
uint32_t eight_signs(uint32_t seven) {
    return seven | uint32_t(std::popcount(seven) & 1) << 7;
}

template <size_t kWidth>
void put(const std::array<int8_t, kWidth>& point, uint32_t signs, int8_t* q) {
    for (size_t i = 0; i < kWidth; ++i) {
        const int minus = -int((signs >> i) & 1);
        q[i] = int8_t((point[i] ^ minus) - minus);
    }
}

void put_shifted(const Point<8>& point, bool down, int8_t* q) {
    for (size_t i = 0; i < 8; ++i) q[i] = int8_t(point[i] + (down ? -1 : 1));
}

void expand(const BlockIQ2_XXS& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 8; ++j) {
        const auto extra = word<uint32_t>(b.qs, 2 * j + 1);
        out->scales[2 * j] = out->scales[2 * j + 1] = int8_t(2 * (extra >> 28) + 1);
        for (int i = 0; i < 4; ++i)
            put(kGrid2xxs[b.qs[8 * j + i]], eight_signs((extra >> (7 * i)) & 127), out->q + 32 * j + 8 * i);
    }
}

void expand(const BlockIQ2_XS& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 16; ++j) out->scales[j] = int8_t(2 * nibble(b.scales, j) + 1);
    for (int i = 0; i < 32; ++i) {
        const auto code = word<uint16_t>(b.qs, i);
        put(kGrid2xs[code & 511], eight_signs(code >> 9), out->q + 8 * i);
    }
}

void expand(const BlockIQ2_S& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 16; ++j) out->scales[j] = int8_t(2 * nibble(b.scales, j) + 1);
    for (int i = 0; i < 32; ++i) {
        const int high = (b.qh[i / 4] >> (2 * (i % 4))) & 3;
        put(kGrid2s[size_t(b.qs[i] | high << 8)], b.signs[i], out->q + 8 * i);
    }
}

void expand(const BlockIQ3_XXS& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 8; ++j) {
        const auto extra = word<uint32_t>(b.extra, j);
        out->scales[2 * j] = out->scales[2 * j + 1] = int8_t(2 * (extra >> 28) + 1);
        for (int i = 0; i < 8; ++i) {
            const uint32_t signs = eight_signs((extra >> (i / 2 * 7)) & 127) >> (i % 2 * 4);
            put(kGrid3xxs[b.qs[8 * j + i]], signs, out->q + 32 * j + 4 * i);
        }
    }
}

void expand(const BlockIQ3_S& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 16; ++j) out->scales[j] = int8_t(2 * nibble(b.scales, j / 2) + 1);
    for (int i = 0; i < 64; ++i) {
        const int high = (b.qh[i / 8] >> (i % 8)) & 1;
        put(kGrid3s[size_t(b.qs[i] | high << 8)], uint32_t(b.signs[i / 2] >> (i % 2 * 4)), out->q + 4 * i);
    }
}

void expand(const BlockIQ1_S& b, Expanded* out) {
    out->d = b.d;
    for (int j = 0; j < 8; ++j) {
        const int extra = word<uint16_t>(b.extra, j);
        out->scales[2 * j] = out->scales[2 * j + 1] = int8_t(2 * ((extra >> 12) & 7) + 1);
        for (int i = 0; i < 4; ++i) {
            const int high = (extra >> (3 * i)) & 7;
            put_shifted(kGrid1[size_t(b.qs[4 * j + i] | high << 8)], (extra >> 15) != 0, out->q + 32 * j + 8 * i);
        }
    }
}

void expand(const BlockIQ1_M& b, Expanded* out) {
    int d = 0;
    for (int j = 0; j < 4; ++j) {
        const int w = word<uint16_t>(b.scales, j);
        d |= (w >> 12) << (4 * j);
        for (int i = 0; i < 4; ++i) out->scales[4 * j + i] = int8_t(2 * ((w >> (3 * i)) & 7) + 1);
    }
    out->d = uint16_t(d);
    for (int i = 0; i < 32; ++i) {
        const int extra = nibble(b.extra, i);
        put_shifted(kGrid1[size_t(b.qs[i] | (extra & 7) << 8)], (extra & 8) != 0, out->q + 8 * i);
    }
}

// A byte is a number below 243 times 256 / 243: multiplied by a power of 3, its next digit is above the eighth bit.
int8_t ternary(uint8_t byte, int digit) {
    constexpr int kPowers[] = {1, 3, 9, 27, 81};
    return int8_t(((uint8_t(byte * kPowers[digit]) * 3) >> 8) - 1);
}

void expand(const BlockTQ1_0& b, Expanded* out) {
    out->d = b.d;
    std::memset(out->scales, 1, sizeof out->scales);
    for (int i = 0; i < 160; ++i) out->q[i] = ternary(b.qs[i % 32], i / 32);
    for (int i = 0; i < 80; ++i) out->q[160 + i] = ternary(b.qs[32 + i % 16], i / 16);
    for (int i = 0; i < 16; ++i) out->q[240 + i] = ternary(b.qh[i % 4], i / 4);
}

void expand(const BlockTQ2_0& b, Expanded* out) {
    out->d = b.d;
    std::memset(out->scales, 1, sizeof out->scales);
    for (int i = 0; i < 256; ++i) out->q[i] = int8_t(crumb(b.qs, i) - 1);
}

template <class Block>
void expand_at(const uint8_t* bytes, Expanded* out) {
    Block block;  // a copy, since blocks of a file may lie at any address
    std::memcpy(&block, bytes, sizeof block);
    expand(block, out);
}

}  // namespace

int divisor(int type) {
    switch (type) {
        case IQ1_S:
        case IQ1_M:
        case IQ2_XXS:
        case IQ2_XS:
        case IQ2_S:
            return 8;
        case IQ3_XXS:
            return 4;
        case IQ3_S:
        case TQ1_0:
        case TQ2_0:
            return 1;
        default:
            return 0;
    }
}

void expand(int type, const uint8_t* block, Expanded* out) {
    switch (type) {
        case IQ1_S:
            return expand_at<BlockIQ1_S>(block, out);
        case IQ1_M:
            return expand_at<BlockIQ1_M>(block, out);
        case IQ2_XXS:
            return expand_at<BlockIQ2_XXS>(block, out);
        case IQ2_XS:
            return expand_at<BlockIQ2_XS>(block, out);
        case IQ2_S:
            return expand_at<BlockIQ2_S>(block, out);
        case IQ3_XXS:
            return expand_at<BlockIQ3_XXS>(block, out);
        case IQ3_S:
            return expand_at<BlockIQ3_S>(block, out);
        case TQ1_0:
            return expand_at<BlockTQ1_0>(block, out);
        case TQ2_0:
            return expand_at<BlockTQ2_0>(block, out);
        default:
            throw std::invalid_argument("tensor type " + std::to_string(type) + " has no grid");
    }
}

void dequantize_expanded_row(int type, const void* source, float* y, int64_t n) {
    const auto* bytes = static_cast<const uint8_t*>(source);
    const float part = 1.0f / float(divisor(type));
    Expanded e;
    for (int64_t i = 0; i < n; i += 256, bytes += traits(type)->type_size, y += 256) {
        expand(type, bytes, &e);
        const float d = half_to_float(e.d) * part;
        for (int j = 0; j < 16; ++j) {
            const float scale = d * float(e.scales[j]);
            for (int k = 16 * j; k < 16 * j + 16; ++k) y[k] = scale * float(e.q[k]);
        }
    }
}

}  // namespace lk::formats

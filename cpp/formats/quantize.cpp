// float32 to bytes, by plain rounding; the same steps as the numpy definition, in the same order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "formats/blocks.h"
#include "formats/half.h"
#include "formats/packing.h"
#include "formats/quants.h"

namespace lk::formats {
namespace {

float inverse(float x) {
    return x == 0 ? 0.0f : 1.0f / x;
}

// Half away from zero, computed as the numpy definition does.
float round_away(float x) {
    return std::copysign(std::floor(std::fabs(x) + 0.5f), x);
}

int clamp_int(float x, int low, int high) {
    if (std::isnan(x)) return std::clamp(0, low, high);
    return int(std::clamp(x, float(low), float(high)));
}

float signed_peak(const float* x, int n) {
    float peak = x[0];
    for (int i = 1; i < n; ++i)
        if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
    return peak;
}

// x about d * (q - half); float64 as in the format's reference.
float symmetric(const float* x, int half_range, uint8_t* q) {
    const float d = signed_peak(x, 32) / float(-half_range), id = inverse(d);
    for (int i = 0; i < 32; ++i) {
        const double code = std::trunc(double(x[i]) * double(id) + (half_range + 0.5));
        q[i] = uint8_t(std::isnan(code) ? 0 : std::clamp(code, 0.0, 2.0 * half_range - 1));
    }
    return d;
}

// x about d * q + m.
void affine(const float* x, int top, uint8_t* q, float* d, float* m) {
    const auto [low, high] = std::minmax_element(x, x + 32);
    *d = (*high - *low) / float(top);
    *m = *low;
    const float id = inverse(*d);
    for (int i = 0; i < 32; ++i) q[i] = uint8_t(clamp_int(std::trunc((x[i] - *m) * id + 0.5f), 0, top));
}

void pack_nibbles(const uint8_t* q, uint8_t* qs) {
    for (int i = 0; i < 16; ++i) qs[i] = uint8_t((q[i] & 15) | (q[i + 16] << 4));
}

void pack_fifth_bits(const uint8_t* q, uint8_t* qh) {
    std::memset(qh, 0, 4);
    for (int i = 0; i < 32; ++i) qh[i / 8] = uint8_t(qh[i / 8] | ((q[i] >> 4) << (i % 8)));
}

void encode(const float* x, BlockQ4_0& b) {
    uint8_t q[32];
    b.d = float_to_half(symmetric(x, 8, q));
    pack_nibbles(q, b.qs);
}

void encode(const float* x, BlockQ4_1& b) {
    uint8_t q[32];
    float d, m;
    affine(x, 15, q, &d, &m);
    b.d = float_to_half(d);
    b.m = float_to_half(m);
    pack_nibbles(q, b.qs);
}

void encode(const float* x, BlockQ5_0& b) {
    uint8_t q[32];
    b.d = float_to_half(symmetric(x, 16, q));
    pack_nibbles(q, b.qs);
    pack_fifth_bits(q, b.qh);
}

void encode(const float* x, BlockQ5_1& b) {
    uint8_t q[32];
    float d, m;
    affine(x, 31, q, &d, &m);
    b.d = float_to_half(d);
    b.m = float_to_half(m);
    pack_nibbles(q, b.qs);
    pack_fifth_bits(q, b.qh);
}

void encode(const float* x, BlockQ8_0& b) {
    float peak = 0;
    for (int i = 0; i < 32; ++i) peak = std::max(peak, std::fabs(x[i]));
    const float d = peak / 127.0f, id = inverse(d);
    b.d = float_to_half(d);
    for (int i = 0; i < 32; ++i) b.qs[i] = int8_t(clamp_int(round_away(x[i] * id), -128, 127));
}

struct AffineK {
    float d, dmin;  // as float16 holds them
    uint8_t scales[16], minima[16], q[256];
};

// x about d * scale * q - dmin * minimum, in `n_sub` sub-blocks.
void affine_k(const float* x, int n_sub, int top, int scale_top, AffineK* out) {
    const int size = 256 / n_sub;
    float scale[16], low[16], scale_peak = 0, low_peak = 0;
    for (int j = 0; j < n_sub; ++j) {
        const auto [least, most] = std::minmax_element(x + j * size, x + (j + 1) * size);
        low[j] = -std::min(*least, 0.0f);
        scale[j] = (*most + low[j]) / float(top);
        scale_peak = j ? std::max(scale_peak, scale[j]) : scale[j];
        low_peak = j ? std::max(low_peak, low[j]) : low[j];
    }
    const float d = scale_peak / float(scale_top), dmin = low_peak / float(scale_top);
    out->d = half_to_float(float_to_half(d));
    out->dmin = half_to_float(float_to_half(dmin));
    for (int j = 0; j < n_sub; ++j) {
        out->scales[j] = uint8_t(clamp_int(round_away(scale[j] * inverse(d)), 0, scale_top));
        out->minima[j] = uint8_t(clamp_int(round_away(low[j] * inverse(dmin)), 0, scale_top));
        const float minimum = out->dmin * float(out->minima[j]), id = inverse(out->d * float(out->scales[j]));
        for (int i = j * size; i < (j + 1) * size; ++i)
            out->q[i] = uint8_t(clamp_int(round_away((x[i] + minimum) * id), 0, top));
    }
}

// x about d * scale * q in 16 sub-blocks, -half_range <= q < half_range.
float symmetric_k(const float* x, int half_range, int scale_half, int8_t* scales, int8_t* q) {
    float scale[16];
    for (int j = 0; j < 16; ++j) scale[j] = signed_peak(x + 16 * j, 16) / float(-half_range);
    float d = signed_peak(scale, 16) / float(-scale_half);
    for (int j = 0; j < 16; ++j)
        scales[j] = int8_t(clamp_int(round_away(scale[j] * inverse(d)), -scale_half, scale_half - 1));
    d = half_to_float(float_to_half(d));
    for (int i = 0; i < 256; ++i) {
        const float id = inverse(d * float(scales[i / 16]));
        q[i] = int8_t(clamp_int(round_away(x[i] * id), -half_range, half_range - 1));
    }
    return d;
}

void pack_crumbs(const uint8_t* code, uint8_t* qs) {
    std::memset(qs, 0, 64);
    for (int i = 0; i < 256; ++i) {
        uint8_t& byte = qs[32 * (i / 128) + i % 32];
        byte = uint8_t(byte | ((code[i] & 3) << (2 * ((i / 32) % 4))));
    }
}

void pack_nibbles_k(const uint8_t* q, uint8_t* qs) {
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 32; ++i) qs[32 * j + i] = uint8_t((q[64 * j + i] & 15) | (q[64 * j + 32 + i] << 4));
}

void encode(const float* x, BlockQ2_K& b) {
    AffineK k;
    affine_k(x, 16, 3, 15, &k);
    for (int j = 0; j < 16; ++j) b.scales[j] = uint8_t(k.scales[j] | (k.minima[j] << 4));
    pack_crumbs(k.q, b.qs);
    b.d = float_to_half(k.d);
    b.dmin = float_to_half(k.dmin);
}

void encode(const float* x, BlockQ3_K& b) {
    int8_t scales[16], q[256];
    b.d = float_to_half(symmetric_k(x, 4, 32, scales, q));
    uint8_t code[256];
    std::memset(b.hmask, 0, sizeof b.hmask);
    for (int i = 0; i < 256; ++i) {
        code[i] = uint8_t(q[i] + 4);
        b.hmask[i % 32] = uint8_t(b.hmask[i % 32] | ((code[i] >> 2) << (i / 32)));
    }
    pack_crumbs(code, b.qs);
    std::memset(b.scales, 0, sizeof b.scales);
    for (int j = 0; j < 16; ++j) {
        const int s = scales[j] + 32;
        b.scales[j % 8] = uint8_t(b.scales[j % 8] | ((s & 15) << (j < 8 ? 0 : 4)));
        b.scales[8 + j % 4] = uint8_t(b.scales[8 + j % 4] | ((s >> 4) << (2 * (j / 4))));
    }
}

void encode(const float* x, BlockQ4_K& b) {
    AffineK k;
    affine_k(x, 8, 15, 63, &k);
    b.d = float_to_half(k.d);
    b.dmin = float_to_half(k.dmin);
    pack_scale_min_k4(k.scales, k.minima, b.scales);
    pack_nibbles_k(k.q, b.qs);
}

void encode(const float* x, BlockQ5_K& b) {
    AffineK k;
    affine_k(x, 8, 31, 63, &k);
    b.d = float_to_half(k.d);
    b.dmin = float_to_half(k.dmin);
    pack_scale_min_k4(k.scales, k.minima, b.scales);
    std::memset(b.qh, 0, sizeof b.qh);
    for (int i = 0; i < 256; ++i) b.qh[i % 32] = uint8_t(b.qh[i % 32] | ((k.q[i] >> 4) << (i / 32)));
    pack_nibbles_k(k.q, b.qs);
}

void encode(const float* x, BlockQ6_K& b) {
    int8_t q[256];
    b.d = float_to_half(symmetric_k(x, 32, 128, b.scales, q));
    uint8_t high[256];
    std::memset(b.ql, 0, sizeof b.ql);
    for (int i = 0; i < 256; ++i) {
        const int code = q[i] + 32, half_index = i / 128, group = (i / 32) % 4;
        uint8_t& byte = b.ql[64 * half_index + 32 * (group % 2) + i % 32];
        byte = uint8_t(byte | ((code & 15) << (4 * (group / 2))));
        high[i] = uint8_t(code >> 4);
    }
    pack_crumbs(high, b.qh);
}

uint8_t nearest_iq4(float x) {
    if (std::isnan(x)) x = 0.0f;
    int code = 0;
    while (code < 15 && (float(kIQ4[code]) + float(kIQ4[code + 1])) / 2 < x) ++code;
    return uint8_t(code);
}

void encode(const float* x, BlockIQ4_NL& b) {
    const float d = signed_peak(x, 32) / -127.0f, id = inverse(d);
    b.d = float_to_half(d);
    for (int i = 0; i < 16; ++i) b.qs[i] = uint8_t(nearest_iq4(x[i] * id) | nearest_iq4(x[i + 16] * id) << 4);
}

void encode(const float* x, BlockIQ4_XS& b) {
    float scale[8];
    for (int s = 0; s < 8; ++s) scale[s] = signed_peak(x + 32 * s, 32) / -127.0f;
    const float d = signed_peak(scale, 8) / -32.0f, id = inverse(d);
    b.d = float_to_half(d), b.scales_h = 0;
    std::memset(b.scales_l, 0, sizeof b.scales_l);
    for (int s = 0; s < 8; ++s) {
        const int code = clamp_int(round_away(scale[s] * id), -32, 31);
        const float step = inverse(half_to_float(b.d) * float(code));
        b.scales_l[s / 2] = uint8_t(b.scales_l[s / 2] | ((code + 32) & 15) << (s % 2 * 4));
        b.scales_h = uint16_t(b.scales_h | ((code + 32) >> 4) << (2 * s));
        const float* y = x + 32 * s;
        for (int i = 0; i < 16; ++i)
            b.qs[16 * s + i] = uint8_t(nearest_iq4(y[i] * step) | nearest_iq4(y[i + 16] * step) << 4);
    }
}

// The largest value gets the exponent of 4; of two values that are equally near, the one that comes first.
void encode(const float* x, BlockMXFP4& b) {
    float top = 0.0f;
    bool number = true;
    for (int i = 0; i < 32; ++i) {
        number = number && !std::isnan(x[i]);
        top = std::max(top, std::fabs(x[i]));
    }
    if (!number) top = 0.0f;
    top = std::min(top, std::numeric_limits<float>::max());
    int exponent = 0;
    std::frexp(top, &exponent);
    b.e = top > 0 ? uint8_t(std::clamp(exponent - 1 - 2 + 127, 0, 254)) : uint8_t(0);
    const float d = power_of_two(b.e);
    uint8_t q[32];
    for (int i = 0; i < 32; ++i) {
        float best = std::numeric_limits<float>::infinity();
        q[i] = 0;
        for (int code = 0; code < 16; ++code) {
            const float error = std::fabs(d * float(kFP4[code]) - x[i]);
            if (error < best) best = error, q[i] = uint8_t(code);
        }
    }
    for (int i = 0; i < 16; ++i) b.qs[i] = uint8_t(q[i] | q[i + 16] << 4);
}

void encode(const float* x, BlockQ8_K& b) {
    const float id = inverse(signed_peak(x, 256) / -127.0f);
    b.d = inverse(id);
    for (int i = 0; i < 256; ++i) b.qs[i] = int8_t(clamp_int(round_away(x[i] * id), -128, 127));
    for (int j = 0; j < 16; ++j) {
        int sum = 0;
        for (int i = 0; i < 16; ++i) sum += b.qs[16 * j + i];
        b.bsums[j] = int16_t(sum);
    }
}

// x about d * (q - 1); d is the largest magnitude.
uint16_t ternary(const float* x, uint8_t* q) {
    float d = 0;
    for (int i = 0; i < 256; ++i) d = std::max(d, std::fabs(x[i]));
    const float id = inverse(d);
    for (int i = 0; i < 256; ++i) q[i] = uint8_t(clamp_int(round_away(x[i] * id), -1, 1) + 1);
    return float_to_half(d);
}

// Digits q[0], q[stride], ... as one number, the first the highest of five, times 256 / 243.
uint8_t pack_digits(const uint8_t* q, int stride, int n) {
    int number = 0;
    for (int i = 0; i < 5; ++i) number = 3 * number + (i < n ? q[i * stride] : 0);
    return uint8_t((number * 256 + 242) / 243);
}

void encode(const float* x, BlockTQ1_0& b) {
    uint8_t q[256];
    b.d = ternary(x, q);
    for (int i = 0; i < 32; ++i) b.qs[i] = pack_digits(q + i, 32, 5);
    for (int i = 0; i < 16; ++i) b.qs[32 + i] = pack_digits(q + 160 + i, 16, 5);
    for (int i = 0; i < 4; ++i) b.qh[i] = pack_digits(q + 240 + i, 4, 4);
}

void encode(const float* x, BlockTQ2_0& b) {
    uint8_t q[256];
    b.d = ternary(x, q);
    pack_crumbs(q, b.qs);
}

template <class Block>
void encode_row(const float* x, void* destination, int64_t n) {
    constexpr int size = sizeof(Block) > 36 ? 256 : 32;
    auto* bytes = static_cast<uint8_t*>(destination);
    for (int64_t i = 0; i < n; i += size, bytes += sizeof(Block)) {
        Block block;
        encode(x + i, block);
        std::memcpy(bytes, &block, sizeof block);
    }
}

template <uint16_t (*convert)(float)>
void encode_16(const float* x, void* destination, int64_t n) {
    auto* bytes = static_cast<uint8_t*>(destination);
    for (int64_t i = 0; i < n; ++i) {
        const uint16_t code = convert(x[i]);
        std::memcpy(bytes + 2 * i, &code, 2);
    }
}

}  // namespace

int64_t row_bytes(int type, int64_t n) {
    const TypeTraits* t = traits(type);
    if (t == nullptr || !t->readable)
        throw std::invalid_argument("tensor type " + (t == nullptr ? std::to_string(type) : t->name) +
                                    " cannot be read yet");
    if (n < 0 || n % t->block_size != 0)
        throw std::invalid_argument(std::string(t->name) + " stores blocks of " + std::to_string(t->block_size) +
                                    " values; " + std::to_string(n) + " is no multiple");
    return n / t->block_size * t->type_size;
}

void quantize_row(int type, const float* source, void* destination, int64_t n) {
    row_bytes(type, n);  // checks type and n
    switch (type) {
        case F32:
            std::memcpy(destination, source, size_t(n) * 4);
            break;
        case F16:
            encode_16<float_to_half>(source, destination, n);
            break;
        case BF16:
            encode_16<float_to_bfloat>(source, destination, n);
            break;
        case Q4_0:
            encode_row<BlockQ4_0>(source, destination, n);
            break;
        case Q4_1:
            encode_row<BlockQ4_1>(source, destination, n);
            break;
        case Q5_0:
            encode_row<BlockQ5_0>(source, destination, n);
            break;
        case Q5_1:
            encode_row<BlockQ5_1>(source, destination, n);
            break;
        case Q8_0:
            encode_row<BlockQ8_0>(source, destination, n);
            break;
        case Q2_K:
            encode_row<BlockQ2_K>(source, destination, n);
            break;
        case Q3_K:
            encode_row<BlockQ3_K>(source, destination, n);
            break;
        case Q4_K:
            encode_row<BlockQ4_K>(source, destination, n);
            break;
        case Q5_K:
            encode_row<BlockQ5_K>(source, destination, n);
            break;
        case Q6_K:
            encode_row<BlockQ6_K>(source, destination, n);
            break;
        case Q8_K:
            encode_row<BlockQ8_K>(source, destination, n);
            break;
        case IQ4_NL:
            encode_row<BlockIQ4_NL>(source, destination, n);
            break;
        case IQ4_XS:
            encode_row<BlockIQ4_XS>(source, destination, n);
            break;
        case MXFP4:
            encode_row<BlockMXFP4>(source, destination, n);
            break;
        case TQ1_0:
            encode_row<BlockTQ1_0>(source, destination, n);
            break;
        case TQ2_0:
            encode_row<BlockTQ2_0>(source, destination, n);
            break;
        default:
            throw std::invalid_argument(std::string(traits(type)->name) + " can be read but not written");
    }
}

}  // namespace lk::formats

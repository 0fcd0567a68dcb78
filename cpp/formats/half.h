// float16 and bfloat16 to float32 and back, bit by bit: the same result on every machine.
#pragma once

#include <cstdint>
#include <cstring>

namespace lk::formats {

inline float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16;
    const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    if (exponent == 31) return from_bits(sign | 0x7F800000 | (mantissa << 13));  // infinity, NaN
    if (exponent != 0) return from_bits(sign | ((exponent + 112) << 23) | (mantissa << 13));
    const float tiny = float(mantissa) * 0x1p-24f;  // zero and subnormal, exact
    return from_bits(sign | to_bits(tiny));
}

// Rounds to nearest, ties to even; too large becomes infinity; NaN stays NaN.
inline uint16_t float_to_half(float value) {
    const uint32_t bits = to_bits(value), magnitude = bits & 0x7FFFFFFF;
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    if (magnitude > 0x7F800000) return uint16_t(sign | 0x7E00 | ((magnitude >> 13) & 0x1FF));
    if (magnitude >= 0x477FF000) return uint16_t(sign | 0x7C00);  // 65520 and above
    if (magnitude < 0x38800000) {                                 // below 2^-14: subnormal
        // Adding 0.5 puts the 24 bits after 2^-24 into the mantissa's end, rounded by the addition.
        const float shifted = from_bits(magnitude) + 0.5f;
        return uint16_t(sign | (to_bits(shifted) - 0x3F000000));
    }
    const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded >> 13) - (112 << 10)));
}

inline float bfloat_to_float(uint16_t bfloat) {
    return from_bits(uint32_t(bfloat) << 16);
}

inline uint16_t float_to_bfloat(float value) {
    const uint32_t bits = to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return uint16_t((bits >> 16) | 64);
    return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace lk::formats

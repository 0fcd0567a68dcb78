// The names that kernels use, in C++ of the host's compiler, where tests run them: an item is a fibre (testing/fibres.h,
// which comes before this file).
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL extern "C"
#define FN static inline
#define GLOBAL
#define LOCAL
#define SHARED FIBRES_SHARED
#define CONSTANT static const
#define BARRIER fibres::meet(__LINE__)
#define BARRIER_FOR_ALL BARRIER
#define GROUP (fibres::group)
#define ITEM (fibres::item)
#define GROUP_ITEMS (fibres::group_items)
#define ATOMIC_COUNT(place) (++*(place))

#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#define SQRT(x) __builtin_sqrtf(x)
#define EXP(x) __builtin_expf(x)
#define LOG(x) __builtin_logf(x)
#define TANH(x) __builtin_tanhf(x)
#define ERF(x) __builtin_erff(x)
#define SIN(x) __builtin_sinf(x)
#define COS(x) __builtin_cosf(x)
#define FABS(x) __builtin_fabsf(x)
#define FLOOR(x) __builtin_floorf(x)
#define RINT(x) __builtin_rintf(x)

static inline u32 float_bits(float x) {
    u32 bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

static inline float bits_float(u32 bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}
#define FLOAT_BITS(x) float_bits(x)
#define BITS_FLOAT(x) bits_float(x)

struct alignas(8) uint2 {
    u32 x, y;
};

struct alignas(16) uint4 {
    u32 x, y, z, w;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

static inline float half_value(u32 bits) {
    u32 sign = bits >> 15, exponent = (bits >> 10) & 31u, mantissa = bits & 1023u;
    float x = exponent == 0    ? (float)mantissa * 5.9604644775390625e-8f
              : exponent == 31 ? bits_float(0x7f800000u | mantissa << 13)
                               : bits_float((exponent + 112u) << 23 | mantissa << 13);
    return sign ? -x : x;
}

static inline void store_half(float x, u8 *p) {  // to nearest, ties to even
    u32 bits = float_bits(x), sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu, half;
    if (rest > 0x7f800000u)
        half = 0x7e00u;
    else if (rest >= 0x477ff000u)
        half = 0x7c00u;
    else if (rest < 0x38800000u)  // below the least normal one: whole 2^-24s
        half = (u32)__builtin_rintf(bits_float(rest) * 16777216.0f);
    else
        half = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
    *(u16 *)p = (u16)(sign | half);
}
#define HALF_AT(p) half_value(*(const u16 *)(p))
#define HALF_VALUE(bits) half_value(bits)
#define STORE_HALF(x, p) store_half(x, (u8 *)(p))

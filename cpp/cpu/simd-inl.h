// Sixteen lanes of float32 or int32 in as many registers as the instruction set needs, with the few operations
// that differ between instruction sets. Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kParts = 64 / kBytes;
constexpr int kPlane = 64;  // bytes of sixteen lanes

typedef float FloatPart __attribute__((vector_size(kBytes)));
typedef int32_t IntPart __attribute__((vector_size(kBytes)));
// The same anywhere in memory. (GCC copies 32 bytes in two halves, by way of the stack.)
typedef FloatPart LooseFloats __attribute__((aligned(1), may_alias));
typedef IntPart LooseInts __attribute__((aligned(1), may_alias));

// So many registers. Kernels whose sums would not all fit work on one part of the lanes after the other.
template <int P>
struct FloatsOf {
    FloatPart p[P];
};
template <int P>
struct IntsOf {
    IntPart p[P];
};
using Floats = FloatsOf<kParts>;
using Ints = IntsOf<kParts>;
constexpr int kPartLanes = kBytes / 4;

#define LK_EACH(n) _Pragma("GCC unroll 4") for (int i = 0; i < (n); ++i)
#define LK_PARTS LK_EACH(kParts)
#define LK_INLINE static inline __attribute__((always_inline))

template <int P = kParts>
LK_INLINE FloatsOf<P> load(const float* x) {
    FloatsOf<P> r;
    LK_EACH(P) r.p[i] = ((const LooseFloats*)x)[i];
    return r;
}

template <int P>
LK_INLINE void store(float* y, FloatsOf<P> x) {
    LK_EACH(P)((LooseFloats*)y)[i] = x.p[i];
}

template <int P = kParts>
LK_INLINE FloatsOf<P> splat(float x) {
    FloatsOf<P> r;
    LK_EACH(P) r.p[i] = x - FloatPart{};
    return r;
}

template <int P = kParts>
LK_INLINE IntsOf<P> splat_int(int32_t x) {
    IntsOf<P> r;
    LK_EACH(P) r.p[i] = x - IntPart{};
    return r;
}

// The first n < 16 values, zeros behind them.
LK_INLINE Floats load_some(const float* x, int64_t n) {
    float padded[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = x[i];
    return load(padded);
}

LK_INLINE void store_some(float* y, Floats x, int64_t n) {
    float padded[kLanes];
    store(padded, x);
    for (int64_t i = 0; i < n; ++i) y[i] = padded[i];
}

template <int P>
LK_INLINE FloatsOf<P> operator+(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] += b.p[i];
    return a;
}

template <int P>
LK_INLINE FloatsOf<P> operator-(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] -= b.p[i];
    return a;
}

template <int P>
LK_INLINE FloatsOf<P> operator*(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] *= b.p[i];
    return a;
}

template <int P>
LK_INLINE FloatsOf<P> operator/(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] /= b.p[i];
    return a;
}

template <int P>
LK_INLINE FloatsOf<P> max(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] = a.p[i] > b.p[i] ? a.p[i] : b.p[i];
    return a;
}

template <int P>
LK_INLINE FloatsOf<P> min(FloatsOf<P> a, FloatsOf<P> b) {
    LK_EACH(P) a.p[i] = a.p[i] < b.p[i] ? a.p[i] : b.p[i];
    return a;
}

// a * b + c, rounded once where the instruction set can. Explicit, so that it never depends on the surroundings.
template <int P>
LK_INLINE FloatsOf<P> fma(FloatsOf<P> a, FloatsOf<P> b, FloatsOf<P> c) {
#if defined(__AVX512F__)
    c.p[0] = (FloatPart)_mm512_fmadd_ps((__m512)a.p[0], (__m512)b.p[0], (__m512)c.p[0]);
#elif defined(__FMA__)
    LK_EACH(P) c.p[i] = (FloatPart)_mm256_fmadd_ps((__m256)a.p[i], (__m256)b.p[i], (__m256)c.p[i]);
#elif defined(__aarch64__)
    LK_EACH(P) c.p[i] = (FloatPart)vfmaq_f32((float32x4_t)c.p[i], (float32x4_t)a.p[i], (float32x4_t)b.p[i]);
#else
    LK_EACH(P) c.p[i] += a.p[i] * b.p[i];
#endif
    return c;
}

template <int P>
LK_INLINE FloatsOf<P> to_floats(IntsOf<P> a) {
    FloatsOf<P> r;
    LK_EACH(P) r.p[i] = __builtin_convertvector(a.p[i], FloatPart);
    return r;
}

// What products of bytes there are. With VNNI, of unsigned and signed ones, added in fours; on ARM of signed ones; else
// of unsigned and signed ones, added in pairs to 16 bits, which they must fit.
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#define LK_VNNI 1
#else
#define LK_VNNI 0
#endif
#if defined(__SSSE3__) && !LK_VNNI
#define LK_SHORT_SUMS 1
#else
#define LK_SHORT_SUMS 0
#endif
#if defined(__aarch64__)
#define LK_SIGNED_PRODUCTS 1
#else
#define LK_SIGNED_PRODUCTS 0
#endif
#if defined(__ARM_FEATURE_MATMUL_INT8)  // also of two rows of eight with two others
#define LK_SQUARES 1
#else
#define LK_SQUARES 0
#endif

// Sums of four products of a byte of u (at most 127) and a signed byte of a, added to s.
LK_INLINE IntPart dot_part(IntPart s, IntPart u, IntPart a) {
#if defined(__AVX512VNNI__)
    return (IntPart)_mm512_dpbusd_epi32((__m512i)s, (__m512i)u, (__m512i)a);
#elif defined(__AVXVNNI__)
    return (IntPart)_mm256_dpbusd_avx_epi32((__m256i)s, (__m256i)u, (__m256i)a);
#elif defined(__AVX2__)
    return s + (IntPart)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)u, (__m256i)a), _mm256_set1_epi16(1));
#elif defined(__SSSE3__)
    return s + (IntPart)_mm_madd_epi16(_mm_maddubs_epi16((__m128i)u, (__m128i)a), _mm_set1_epi16(1));
#elif defined(__ARM_FEATURE_DOTPROD)
    return (IntPart)vdotq_s32((int32x4_t)s, (int8x16_t)u, (int8x16_t)a);
#elif defined(__aarch64__)
    const int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)u), vget_low_s8((int8x16_t)a));
    const int16x8_t high = vmull_high_s8((int8x16_t)u, (int8x16_t)a);
    return (IntPart)vpadalq_s16((int32x4_t)s, vpaddq_s16(low, high));  // no activation is -128: pairs fit
#else
    uint8_t left[kBytes];
    int8_t right[kBytes];
    __builtin_memcpy(left, &u, kBytes);
    __builtin_memcpy(right, &a, kBytes);
    for (int i = 0; i < kBytes; ++i) s[i / 4] += left[i] * right[i];
    return s;
#endif
}

typedef int16_t ShortPart __attribute__((vector_size(kBytes)));

#if LK_SQUARES
// Adds the products of rows 0 and 1, and of 2 and 3, of a group of weights and the next one with two tokens.
LK_INLINE void add_square(IntPart (&square)[2], IntPart w, IntPart w_next, int32x4_t tokens) {
    const int8x16_t x = (int8x16_t)tokens;
    for (int i = 0; i < 2; ++i) {
        const int32x4_t rows =
            i == 0 ? vzip1q_s32((int32x4_t)w, (int32x4_t)w_next) : vzip2q_s32((int32x4_t)w, (int32x4_t)w_next);
        square[i] = (IntPart)vmmlaq_s32((int32x4_t)square[i], (int8x16_t)rows, x);
    }
}
#endif

#if LK_SHORT_SUMS
// Sums of two products of an unsigned and a signed byte; they must fit.
LK_INLINE ShortPart pair_sums(IntPart u, IntPart a) {
#if defined(__AVX2__)
    return (ShortPart)_mm256_maddubs_epi16((__m256i)u, (__m256i)a);
#else
    return (ShortPart)_mm_maddubs_epi16((__m128i)u, (__m128i)a);
#endif
}

// Makes the compiler finish a sum before it goes on: it would make all products first, and run out of registers.
template <class Part>
LK_INLINE void finish(Part& x) {
    asm("" : "+x"(x));
}

// Sums of neighbours.
LK_INLINE IntPart widened(ShortPart x) {
#if defined(__AVX2__)
    return (IntPart)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1));
#else
    return (IntPart)_mm_madd_epi16((__m128i)x, _mm_set1_epi16(1));
#endif
}

// Of signed bytes.
template <int P>
LK_INLINE IntsOf<P> magnitudes(IntsOf<P> x) {
#if defined(__AVX2__)
    LK_EACH(P) x.p[i] = (IntPart)_mm256_abs_epi8((__m256i)x.p[i]);
#else
    LK_EACH(P) x.p[i] = (IntPart)_mm_abs_epi8((__m128i)x.p[i]);
#endif
    return x;
}

// Bytes of x, negated where those of y are negative.
template <int P>
LK_INLINE IntsOf<P> with_sign(IntsOf<P> x, IntsOf<P> y) {
#if defined(__AVX2__)
    LK_EACH(P) x.p[i] = (IntPart)_mm256_sign_epi8((__m256i)x.p[i], (__m256i)y.p[i]);
#else
    LK_EACH(P) x.p[i] = (IntPart)_mm_sign_epi8((__m128i)x.p[i], (__m128i)y.p[i]);
#endif
    return x;
}
#endif

// u holds 4-bit values: any product sum fits.
template <int P>
LK_INLINE IntsOf<P> dot_nibbles(IntsOf<P> s, IntsOf<P> u, IntsOf<P> a) {
    LK_EACH(P) s.p[i] = dot_part(s.p[i], u.p[i], a.p[i]);
    return s;
}

// u holds bytes up to 255. Without VNNI the pair sums of dot_part would not fit 16 bits, so halves are summed apart.
template <int P>
LK_INLINE IntsOf<P> dot_bytes(IntsOf<P> s, IntsOf<P> u, IntsOf<P> a) {
#if LK_VNNI
    return dot_nibbles(s, u, a);
#else
    LK_EACH(P) {
        const IntPart low = u.p[i] & 0x0f0f0f0f, high = (u.p[i] >> 4) & 0x0f0f0f0f;
        s.p[i] = dot_part(s.p[i], low, a.p[i]) + (dot_part(IntPart{}, high, a.p[i]) << 4);
    }
    return s;
#endif
}

template <int P = kParts>
LK_INLINE IntsOf<P> load_bytes(const uint8_t* x) {
    IntsOf<P> r;
    LK_EACH(P) r.p[i] = ((const LooseInts*)x)[i];
    return r;
}

template <int P>
LK_INLINE void store_bytes(uint8_t* y, IntsOf<P> x) {
    LK_EACH(P)((LooseInts*)y)[i] = x.p[i];
}

template <int P>
LK_INLINE IntsOf<P> operator|(IntsOf<P> a, IntsOf<P> b) {
    LK_EACH(P) a.p[i] |= b.p[i];
    return a;
}

// Each lane shifted to the left by `by` bits, or to the right by -by, and masked.
template <int P>
LK_INLINE IntsOf<P> shifted(IntsOf<P> x, int by, int32_t mask) {
    LK_EACH(P) x.p[i] = (by >= 0 ? x.p[i] << by : x.p[i] >> -by) & mask;
    return x;
}

// table[byte] for each byte below 16.
template <int P>
LK_INLINE IntsOf<P> lookup(IntsOf<P> x, const void* table) {
#if defined(__AVX512BW__)
    const __m512i wide = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table));
    x.p[0] = (IntPart)_mm512_shuffle_epi8(wide, (__m512i)x.p[0]);
#elif defined(__AVX2__)
    const __m256i wide = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
    LK_EACH(P) x.p[i] = (IntPart)_mm256_shuffle_epi8(wide, (__m256i)x.p[i]);
#elif defined(__SSSE3__)
    LK_EACH(P) x.p[i] = (IntPart)_mm_shuffle_epi8(_mm_loadu_si128((const __m128i*)table), (__m128i)x.p[i]);
#elif defined(__aarch64__)
    LK_EACH(P) x.p[i] = (IntPart)vqtbl1q_u8(vld1q_u8((const uint8_t*)table), (uint8x16_t)x.p[i]);
#else
    uint8_t bytes[sizeof x];
    __builtin_memcpy(bytes, &x, sizeof x);
    for (size_t i = 0; i < sizeof x; ++i) bytes[i] = ((const uint8_t*)table)[bytes[i]];
    __builtin_memcpy(&x, bytes, sizeof x);
#endif
    return x;
}

typedef uint8_t HalfBytes __attribute__((vector_size(kBytes / 2)));
typedef int8_t QuarterBytes __attribute__((vector_size(kBytes / 4)));

template <int P>
LK_INLINE FloatsOf<P> as_floats(IntsOf<P> x) {
    FloatsOf<P> r;
    LK_EACH(P) r.p[i] = (FloatPart)x.p[i];
    return r;
}

// s plus the sums of two products of bfloat16, a pair in each lane.
template <int P>
LK_INLINE FloatsOf<P> dot_bf16(FloatsOf<P> s, IntsOf<P> a, IntsOf<P> b) {
#if defined(__AVX512BF16__)
    s.p[0] = (FloatPart)_mm512_dpbf16_ps((__m512)s.p[0], (__m512bh)a.p[0], (__m512bh)b.p[0]);
    return s;
#else
    s = fma(as_floats(shifted(a, 16, -1)), as_floats(shifted(b, 16, -1)), s);
    return fma(as_floats(shifted(a, 0, int32_t(0xffff0000))), as_floats(shifted(b, 0, int32_t(0xffff0000))), s);
#endif
}

// Whether there are products of bfloat16; else activations of bfloat16 are kept as float32, which costs no bit.
#if defined(__AVX512BF16__)
constexpr bool kPairsOfBF16 = true;
#else
constexpr bool kPairsOfBF16 = false;
#endif

// Sixteen integers in -128..127 as bytes.
LK_INLINE void narrow(Ints x, int8_t* y) {
    LK_PARTS {
        const QuarterBytes bytes = __builtin_convertvector(x.p[i], QuarterBytes);
        __builtin_memcpy(y + i * (kBytes / 4), &bytes, sizeof bytes);
    }
}

// 32 bytes as pairs of int16, a pair in each lane.
template <int P = kParts>
LK_INLINE IntsOf<P> widen_bytes(const uint8_t* x) {
    IntsOf<P> r;
#if defined(__AVX512BW__)
    r.p[0] = (IntPart)_mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)x));
    return r;
#elif defined(__AVX2__)
    LK_EACH(P) r.p[i] = (IntPart)_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)x + i));
    return r;
#endif
    LK_EACH(P) {
        HalfBytes bytes;
        __builtin_memcpy(&bytes, x + i * (kBytes / 2), sizeof bytes);
        r.p[i] = (IntPart) __builtin_convertvector(bytes, ShortPart);
    }
    return r;
}

// 16 signed bytes as floats. GCC takes vectors of bytes apart where it should convert them, hence the intrinsics.
template <int P = kParts>
LK_INLINE FloatsOf<P> bytes_to_floats(const int8_t* x) {
    FloatsOf<P> r;
#if defined(__AVX512F__)
    r.p[0] = (FloatPart)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)x)));
    return r;
#elif defined(__AVX2__)
    LK_EACH(P)
    r.p[i] = (FloatPart)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(x + 8 * i))));
    return r;
#endif
    LK_EACH(P) {
        QuarterBytes bytes;
        __builtin_memcpy(&bytes, x + i * (kBytes / 4), sizeof bytes);
        r.p[i] = __builtin_convertvector(__builtin_convertvector(bytes, IntPart), FloatPart);
    }
    return r;
}

// s plus the sums of two products of int16.
template <int P>
LK_INLINE IntsOf<P> dot_pairs(IntsOf<P> s, IntsOf<P> a, IntsOf<P> b) {
#if defined(__AVX512VNNI__)
    s.p[0] = (IntPart)_mm512_dpwssd_epi32((__m512i)s.p[0], (__m512i)a.p[0], (__m512i)b.p[0]);
#elif defined(__AVX2__)
    LK_EACH(P) s.p[i] += (IntPart)_mm256_madd_epi16((__m256i)a.p[i], (__m256i)b.p[i]);
#elif defined(__SSE2__)
    LK_EACH(P) s.p[i] += (IntPart)_mm_madd_epi16((__m128i)a.p[i], (__m128i)b.p[i]);
#elif defined(__aarch64__)
    LK_EACH(P) {
        const int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a.p[i]), vget_low_s16((int16x8_t)b.p[i]));
        s.p[i] += (IntPart)vpaddq_s32(low, vmull_high_s16((int16x8_t)a.p[i], (int16x8_t)b.p[i]));
    }
#else
    LK_EACH(P) {
        const IntPart low = ((a.p[i] << 16) >> 16) * ((b.p[i] << 16) >> 16);
        s.p[i] += low + (a.p[i] >> 16) * (b.p[i] >> 16);
    }
#endif
    return s;
}

// The same four bytes in every lane.
template <int P = kParts>
LK_INLINE IntsOf<P> splat_bytes(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, 4);
    return splat_int<P>(four);
}

// Sum of the lanes, always in the same order.
LK_INLINE float sum(Floats a) {
    float x[kLanes];
    store(x, a);
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] += x[i + width];
    return x[0];
}

LK_INLINE float maximum(Floats a) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)a.p[0]);
#endif
    float x[kLanes];
    store(x, a);
    for (int i = 1; i < kLanes; ++i) x[0] = x[i] > x[0] ? x[i] : x[0];
    return x[0];
}

// exp(x) within 2 units in the last place: 2^n times a polynomial on [-ln2/2, ln2/2] (its Taylor series, degree 7).
// Arguments are held in [-87, 88], where both factors are normal numbers.
LK_INLINE Floats exp(Floats x) {
    x = min(max(x, splat(-87.0f)), splat(88.0f));
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    const Floats shifted = fma(x, splat(1.44269504f), magic);
    const Floats n = shifted - magic;
    Floats r = fma(n, splat(-0.693359375f), x);  // ln 2 in two parts, the first exact in few bits
    r = fma(n, splat(2.12194440e-4f), r);
    Floats y = splat(1.0f / 5040);
    y = fma(y, r, splat(1.0f / 720));
    y = fma(y, r, splat(1.0f / 120));
    y = fma(y, r, splat(1.0f / 24));
    y = fma(y, r, splat(1.0f / 6));
    y = fma(y, r, splat(0.5f));
    y = fma(y, r, splat(1.0f));
    y = fma(y, r, splat(1.0f));
    LK_PARTS y.p[i] = (FloatPart)((IntPart)y.p[i] + (__builtin_convertvector(n.p[i], IntPart) << 23));
    return y;
}

// Calls make.operator()<i>() for i in [0, kEnd).
template <int kEnd, class Make>
constexpr void each_number(Make make) {
    if constexpr (kEnd > 0) {
        each_number<kEnd - 1>(make);
        make.template operator()<kEnd - 1>();
    }
}

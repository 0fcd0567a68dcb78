// float16 and bfloat16 to float32 and back (round to nearest, ties to even), one value or sixteen.
// Included by units of kernels, inside their anonymous namespace.

LK_INLINE uint32_t bits_of(float x) {
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    return u;
}

LK_INLINE float float_of(uint32_t u) {
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
}

LK_INLINE float from_half(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = h & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);       // infinity, NaN
    if (rest >= 0x0400) return float_of(sign | ((rest << 13) + (uint32_t(112) << 23)));  // exponent bias 15 -> 127
    const float small = float(rest) * 5.9604644775390625e-8f;                            // subnormal: times 2^-24
    return float_of(sign | bits_of(small));
}

LK_INLINE uint16_t to_half(float x) {
    const uint32_t u = bits_of(x), sign = (u >> 16) & 0x8000, rest = u & 0x7fffffff;
    if (rest > 0x7f800000) return uint16_t(sign | 0x7e00);
    if (rest >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to 65536 or more
    if (rest < 0x38800000) {                                 // below 2^-14: subnormal, the adder rounds for us
        const float shifted = float_of(rest) + 0.5f;
        return uint16_t(sign | (bits_of(shifted) - 0x3f000000));
    }
    return uint16_t(sign | ((rest - (uint32_t(112) << 23) + 0xfff + ((rest >> 13) & 1)) >> 13));
}

LK_INLINE float from_bf16(uint16_t h) {
    return float_of(uint32_t(h) << 16);
}

LK_INLINE uint16_t to_bf16(float x) {
    const uint32_t u = bits_of(x);
    if ((u & 0x7fffffff) > 0x7f800000) return uint16_t((u >> 16) | 64);  // keep NaN a NaN
    return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

template <int P = kParts>
LK_INLINE FloatsOf<P> load_half(const uint16_t* x) {
    FloatsOf<P> r;
#if defined(__AVX512F__)
    r.p[0] = (FloatPart)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)x));
#elif defined(__F16C__)
    LK_EACH(P) r.p[i] = (FloatPart)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + 8 * i)));
#elif defined(__aarch64__)
    LK_EACH(P) r.p[i] = (FloatPart)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x + 4 * i)));
#else
    float wide[P * kPartLanes];
    for (int i = 0; i < P * kPartLanes; ++i) wide[i] = from_half(x[i]);
    r = load<P>(wide);
#endif
    return r;
}

template <int P = kParts>
LK_INLINE FloatsOf<P> load_bf16(const uint16_t* x) {
    FloatsOf<P> r;
#if defined(__AVX512F__)
    r.p[0] = (FloatPart)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)), 16);
#elif defined(__AVX2__)
    LK_EACH(P)
    r.p[i] = (FloatPart)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(x + 8 * i))), 16);
#elif defined(__aarch64__)
    LK_EACH(P) r.p[i] = (FloatPart)vshll_n_u16(vld1_u16(x + 4 * i), 16);
#else
    float wide[P * kPartLanes];
    for (int i = 0; i < P * kPartLanes; ++i) wide[i] = from_bf16(x[i]);
    r = load<P>(wide);
#endif
    return r;
}

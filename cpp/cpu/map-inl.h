// A list of simple operations on some hundred values at a time: each instruction goes over all of them, so that what it
// costs to look at one is shared. Included by units of kernels, inside their anonymous namespace, after rows-inl.h.

template <class Apply>
LK_INLINE void map_each(const MapInstruction& c, float* const* vectors, const float* values, int64_t n, Apply apply) {
    float* y = vectors[c.to];
    const float *a = c.a >= 0 ? vectors[c.a] : nullptr, *b = c.b >= 0 ? vectors[c.b] : nullptr;
    const Floats left = splat(a ? 0.0f : values[-1 - c.a]), right = splat(b ? 0.0f : values[-1 - c.b]);
    if (a && b)
        each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, apply(take(a + i, m), take(b + i, m)), m); });
    else if (a)
        each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, apply(take(a + i, m), right), m); });
    else if (b)
        each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, apply(left, take(b + i, m)), m); });
    else
        each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, apply(left, right), m); });
}

LK_INLINE Floats square_root(Floats x) {
#if defined(__AVX512F__)
    x.p[0] = (FloatPart)_mm512_sqrt_ps((__m512)x.p[0]);
#elif defined(__AVX2__)
    LK_PARTS x.p[i] = (FloatPart)_mm256_sqrt_ps((__m256)x.p[i]);
#elif defined(__SSE2__)
    LK_PARTS x.p[i] = (FloatPart)_mm_sqrt_ps((__m128)x.p[i]);
#elif defined(__aarch64__)
    LK_PARTS x.p[i] = (FloatPart)vsqrtq_f32((float32x4_t)x.p[i]);
#else
    for (int part = 0; part < kParts; ++part)
        for (int lane = 0; lane < kPartLanes; ++lane) x.p[part][lane] = __builtin_sqrtf(x.p[part][lane]);
#endif
    return x;
}

LK_INLINE Floats sign_of(Floats x) {
    LK_PARTS x.p[i] = x.p[i] > 0.0f ? FloatPart{} + 1.0f : x.p[i] < 0.0f ? FloatPart{} - 1.0f : x.p[i];
    return x;
}

void map(const MapInstruction* code, int n_code, float* const* vectors, const float* values, int64_t n) {
    const Floats zero = splat(0.0f);
    for (int i = 0; i < n_code; ++i) {
        const MapInstruction& c = code[i];
        const auto apply = [&](auto op) LK_LAMBDA { map_each(c, vectors, values, n, op); };
        switch (c.op) {
            case MapOp::add:
                apply([](Floats a, Floats b) LK_LAMBDA { return a + b; });
                break;
            case MapOp::subtract:
                apply([](Floats a, Floats b) LK_LAMBDA { return a - b; });
                break;
            case MapOp::multiply:
                apply([](Floats a, Floats b) LK_LAMBDA { return a * b; });
                break;
            case MapOp::divide:
                apply([](Floats a, Floats b) LK_LAMBDA { return a / b; });
                break;
            case MapOp::minimum:
                apply([](Floats a, Floats b) LK_LAMBDA { return min(a, b); });
                break;
            case MapOp::maximum:
                apply([](Floats a, Floats b) LK_LAMBDA { return max(a, b); });
                break;
            case MapOp::square_root:
                apply([](Floats a, Floats) LK_LAMBDA { return square_root(a); });
                break;
            case MapOp::absolute:
                apply([&](Floats a, Floats) LK_LAMBDA { return max(a, zero - a); });
                break;
            case MapOp::sign:
                apply([](Floats a, Floats) LK_LAMBDA { return sign_of(a); });
                break;
            case MapOp::copy:
                apply([](Floats a, Floats) LK_LAMBDA { return a; });
                break;
        }
    }
}

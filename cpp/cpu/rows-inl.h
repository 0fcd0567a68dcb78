// Operations on single rows of float32. Included by units of kernels, inside their anonymous namespace.

// Calls body(load, store, at) for each 16 values; the last call may cover fewer.
template <class Body>
LK_INLINE void each(int64_t n, Body body) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, int64_t(kLanes));
    if (i < n) body(i, n - i);
}

LK_INLINE Floats take(const float* x, int64_t n) {
    return n == kLanes ? load(x) : load_some(x, n);
}

LK_INLINE void put(float* y, Floats x, int64_t n) {
    if (n == kLanes)
        store(y, x);
    else
        store_some(y, x, n);
}

float dot(const float* a, const float* b, int64_t n) {
    Floats total = splat(0.0f);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { total = fma(take(a + i, m), take(b + i, m), total); });
    return sum(total);
}

void rms_norm(const float* x, const float* weight, const float* delta, float delta_scale, float epsilon, int64_t n,
              float* y) {
    const float mean = dot(x, x, n) / float(n);
    const Floats factor = splat(1.0f / __builtin_sqrtf(mean + epsilon));
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        Floats w = take(weight + i, m);
        if (delta) w = fma(splat(delta_scale), take(delta + i, m), w);
        put(y + i, take(x + i, m) * factor * w, m);
    });
}

// cos_sin holds n_rot/2 cosines, then as many sines.
void rope(const float* x, const float* cos_sin, int64_t n_head, int64_t head_dim, int64_t n_rot, bool adjacent,
          float* y) {
    const int64_t half = n_rot / 2, step = adjacent ? 2 : 1, apart = adjacent ? 1 : half;
    const float *cosine = cos_sin, *sine = cos_sin + half;
    for (int64_t h = 0; h < n_head; ++h, x += head_dim, y += head_dim) {
        for (int64_t i = 0; i < half; ++i) {
            const float a = x[i * step], b = x[i * step + apart];
            y[i * step] = a * cosine[i] - b * sine[i];
            y[i * step + apart] = a * sine[i] + b * cosine[i];
        }
        for (int64_t i = n_rot; i < head_dim; ++i) y[i] = x[i];
    }
}

void add(const float* a, const float* b, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, take(a + i, m) + take(b + i, m), m); });
}

void mul(const float* a, const float* b, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, take(a + i, m) * take(b + i, m), m); });
}

void scale(const float* a, float factor, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, take(a + i, m) * splat(factor), m); });
}

void axpy(float factor, const float* a, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, fma(splat(factor), take(a + i, m), take(y + i, m)), m); });
}

// silu(g) = g / (1 + exp(-g)); tanh-gelu(g) = g / (1 + exp(-2 sqrt(2/pi) (g + c g^3))).
LK_INLINE Floats gate(Floats g, bool gelu) {
    Floats slope = g;
    if (gelu) slope = splat(1.59576912f) * fma(g * g * g, splat(0.044715f), g);
    return g / (splat(1.0f) + exp(splat(0.0f) - slope));
}

void gated(const float* left, const float* right, bool gelu, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, gate(take(left + i, m), gelu) * take(right + i, m), m); });
}

float maximum_of(const float* x, int64_t n) {
    float top = x[0];
    int64_t i = 0;
    if (n >= kLanes) {
        Floats tops = load(x);
        for (; i + kLanes <= n; i += kLanes) tops = max(tops, load(x + i));
        top = maximum(tops);
    }
    for (; i < n; ++i) top = x[i] > top ? x[i] : top;
    return top;
}

float exp_sum(const float* x, float top, int64_t n) {
    Floats total = splat(0.0f);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        float values[kLanes];
        store(values, exp(take(x + i, m) - splat(top)));
        total = total + load_some(values, m);
    });
    return sum(total);
}

void exp_scale(const float* x, float top, float factor, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, exp(take(x + i, m) - splat(top)) * splat(factor), m); });
}

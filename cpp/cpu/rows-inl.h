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

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t n, float* y) {
    Floats total = splat(0.0f), squares = splat(0.0f);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { total = total + take(x + i, m); });
    const float mean = sum(total) / float(n);
    const Floats center = splat(mean);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        float lanes[kLanes];
        store(lanes, take(x + i, m) - center);
        const Floats apart = load_some(lanes, m);  // lanes beyond the end count nothing
        squares = fma(apart, apart, squares);
    });
    const Floats factor = splat(1.0f / __builtin_sqrtf(sum(squares) / float(n) + epsilon));
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        Floats out = (take(x + i, m) - center) * factor;
        if (weight) out = out * take(weight + i, m);
        if (bias) out = out + take(bias + i, m);
        put(y + i, out, m);
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

// A quotient of polynomials that is within some roundings of tanh (coefficients as in Eigen's generic_fast_tanh_float);
// beyond the bounds tanh is 1 in float32.
LK_INLINE Floats tanh(Floats x) {
    const Floats bound = splat(7.90531110763549805f);
    x = max(x, splat(0.0f) - bound);
    x = splat(0.0f) - max(splat(0.0f) - x, splat(0.0f) - bound);
    const Floats z = x * x;
    Floats p = fma(z, splat(-2.76076847742355e-16f), splat(2.00018790482477e-13f));
    p = fma(z, p, splat(-8.60467152213735e-11f));
    p = fma(z, p, splat(5.12229709037114e-08f));
    p = fma(z, p, splat(1.48572235717979e-05f));
    p = fma(z, p, splat(6.37261928875436e-04f));
    p = fma(z, p, splat(4.89352455891786e-03f));
    Floats q = fma(z, splat(1.19825839466702e-06f), splat(1.18534705686654e-04f));
    q = fma(z, q, splat(2.26843463243900e-03f));
    q = fma(z, q, splat(4.89352518554385e-03f));
    return x * p / q;
}

// The normal distribution's integral beyond |x|, to 1.5e-7: Abramowitz and Stegun, formula 7.1.26 for erf.
LK_INLINE Floats normal_tail(Floats x) {
    const Floats one = splat(1.0f), size = max(x, splat(0.0f) - x);
    const Floats t = one / fma(size, splat(0.3275911f * 0.70710678f), one);
    Floats p = fma(t, splat(1.061405429f), splat(-1.453152027f));
    p = fma(t, p, splat(1.421413741f));
    p = fma(t, p, splat(-0.284496736f));
    p = fma(t, p, splat(0.254829592f)) * t;
    return splat(0.5f) * p * exp(splat(-0.5f) * x * x);
}

// x times the normal distribution's integral.
LK_INLINE Floats gelu_erf(Floats x) {
    const Floats zero = splat(0.0f);
    return max(x, zero) - max(x, zero - x) * normal_tail(x);
}

LK_INLINE Floats activated(Floats x, Activation kind, Floats cap) {
    const Floats positive = max(x, splat(0.0f));
    switch (kind) {
        case Activation::silu:
            return gate(x, false);
        case Activation::gelu:
            return gate(x, true);
        case Activation::gelu_erf:
            return gelu_erf(x);
        case Activation::relu:
            return positive;
        case Activation::relu_squared:
            return positive * positive;
        case Activation::soft_cap:
            return cap * tanh(x / cap);
    }
    return x;
}

void activate(const float* x, Activation kind, float cap, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, activated(take(x + i, m), kind, splat(cap)), m); });
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

// Gradients of operations on rows, and sums over rows and over everything, always in the same order. Included by units
// of kernels, inside their anonymous namespace, after rows-inl.h.

// 1 / sqrt(mean square + epsilon).
float norm_factor(const float* x, float epsilon, int64_t n) {
    return 1.0f / __builtin_sqrtf(dot(x, x, n) / float(n) + epsilon);
}

// Of y = x * factor * weight: dx, which may lie where x or dy does.
void norm_back(const float* x, const float* dy, const float* weight, float epsilon, int64_t n, float* dx) {
    const float factor = norm_factor(x, epsilon, n);
    Floats products = splat(0.0f);
    each(n, [&](int64_t i, int64_t m)
                LK_LAMBDA { products = fma(take(dy + i, m) * take(weight + i, m), take(x + i, m), products); });
    const Floats along = splat(-sum(products) / float(n) * factor * factor * factor), all = splat(factor);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        const Floats slope = take(dy + i, m) * take(weight + i, m) * all;
        put(dx + i, fma(take(x + i, m), along, slope), m);
    });
}

// With the normal values z = (x - mean) * f and g = dy * weight: dx = f (g - mean(g) - z mean(g z)).
void layer_norm_back(const float* x, const float* dy, const float* weight, float epsilon, int64_t n, float* dx) {
    Floats total = splat(0.0f), squares = splat(0.0f), slopes = splat(0.0f), along = splat(0.0f);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { total = total + take(x + i, m); });
    const Floats center = splat(sum(total) / float(n));
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        float lanes[kLanes];
        store(lanes, take(x + i, m) - center);
        const Floats apart = load_some(lanes, m), slope = take(dy + i, m) * take(weight + i, m);
        squares = fma(apart, apart, squares);
        slopes = slopes + slope;
        along = fma(slope, apart, along);
    });
    const float factor = 1.0f / __builtin_sqrtf(sum(squares) / float(n) + epsilon);
    const Floats all = splat(factor), mean = splat(sum(slopes) / float(n)),
                 slant = splat(sum(along) / float(n) * factor * factor);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        const Floats slope = take(dy + i, m) * take(weight + i, m);
        put(dx + i, (slope - mean - (take(x + i, m) - center) * slant) * all, m);
    });
}

// y[i] += the sum over rows of x[i], times other[i] and the factor of the row where there are such, of columns
// [begin, end). Sums of kDepth rows are added to each other.
void add_columns(const float* x, const float* other, const float* factors, int64_t n_row, int64_t width, int64_t begin,
                 int64_t end, float* y) {
    each(end - begin, [&](int64_t at, int64_t m) LK_LAMBDA {
        const int64_t column = begin + at;
        for (int64_t first = 0; first < n_row; first += kDepth) {
            const int64_t last = n_row - first < kDepth ? n_row : first + kDepth;
            Floats total = splat(0.0f);
            for (int64_t r = first; r < last; ++r) {
                Floats value = take(x + r * width + column, m);
                if (other) value = value * take(other + r * width + column, m);
                if (factors) value = value * splat(factors[r]);
                total = total + value;
            }
            put(y + column, take(y + column, m) + total, m);
        }
    });
}

// The logistic function of u and the derivative of g times it: with silu u = g, with the tanh form of gelu
// u = c (g + k g^3).
struct Gate {
    Floats share, slope;
};
LK_INLINE Gate gate_slope(Floats g, bool gelu) {
    const Floats one = splat(1.0f), c = splat(1.59576912f), k = splat(0.044715f);
    Floats u = g, slope = one;
    if (gelu) u = c * fma(g * g * g, k, g), slope = c * fma(g * g, splat(3.0f) * k, one);
    const Floats s = one / (one + exp(splat(0.0f) - u));
    return {s, s + g * s * (one - s) * slope};
}

// Of y = activation(gate) up. dgate and dup may lie where gate and up do.
void gated_back(const float* gate, const float* up, const float* dy, bool gelu, int64_t n, float* dgate, float* dup) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        const Floats g = take(gate + i, m), linear = take(up + i, m), d = take(dy + i, m);
        const Gate at = gate_slope(g, gelu);
        put(dup + i, d * g * at.share, m);
        put(dgate + i, d * linear * at.slope, m);
    });
}

// 1 where x is positive, else 0.
LK_INLINE Floats is_positive(Floats x) {
    const Floats zero = splat(0.0f), one = splat(1.0f);
    return one - max(one - max(x * splat(3e38f), zero), zero);
}

LK_INLINE Floats slope_at(Floats x, Activation kind) {
    const Floats one = splat(1.0f), tail = normal_tail(x);
    switch (kind) {
        case Activation::silu:
            return gate_slope(x, false).slope;
        case Activation::gelu:
            return gate_slope(x, true).slope;
        case Activation::gelu_erf:
            return tail + is_positive(x) * (one - splat(2.0f) * tail) +
                   x * splat(0.39894228f) * exp(splat(-0.5f) * x * x);
        case Activation::relu_squared:
            return splat(2.0f) * max(x, splat(0.0f));
        default:
            return is_positive(x);
    }
}

// y = the derivative of an activation at x.
void slopes(const float* x, Activation kind, int64_t n, float* y) {
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA { put(y + i, slope_at(take(x + i, m), kind), m); });
}

typedef double DoublePart __attribute__((vector_size(kBytes * 2)));

// Of at most some thousand values: their sum, the sum of their squares, in double; or their largest magnitude.
double reduce(const float* x, ReduceKind kind, int64_t n) {
    DoublePart totals[kParts] = {};
    Floats tops = splat(0.0f);
    each(n, [&](int64_t i, int64_t m) LK_LAMBDA {
        const Floats v = take(x + i, m);
        if (kind == ReduceKind::max_abs) {
            tops = max(max(v, splat(0.0f) - v), tops);
            return;
        }
        _Pragma("GCC unroll 4") for (int part = 0; part < kParts; ++part) {
            const DoublePart wide = __builtin_convertvector(v.p[part], DoublePart);
            totals[part] += kind == ReduceKind::sum ? wide : wide * wide;
        }
    });
    if (kind == ReduceKind::max_abs) return maximum(tops);
    double total = 0.0;
    for (int part = 0; part < kParts; ++part)
        for (int lane = 0; lane < kPartLanes; ++lane) total += totals[part][lane];
    return total;
}

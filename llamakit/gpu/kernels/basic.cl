// Ops on values: element by element, by row, and rows of others.
FN float silu(float x) { return x / (1.0f + EXP(-x)); }

FN float gelu(float x) { return 0.5f * x * (1.0f + TANH(0.7978845608028654f * (x + 0.044715f * x * x * x))); }

KERNEL void add(BUF(const float, a), BUF(const float, b), BUF(float, y), const int n) {
    USE(const float, a);
    USE(const float, b);
    USE(float, y);
    if (INDEX < n) y[INDEX] = a[INDEX] + b[INDEX];
}

KERNEL void mul(BUF(const float, a), BUF(const float, b), BUF(float, y), const int n) {
    USE(const float, a);
    USE(const float, b);
    USE(float, y);
    if (INDEX < n) y[INDEX] = a[INDEX] * b[INDEX];
}

KERNEL void scale(BUF(const float, x), BUF(float, y), const int n, const float factor) {
    USE(const float, x);
    USE(float, y);
    if (INDEX < n) y[INDEX] = x[INDEX] * factor;
}

KERNEL void soft_cap(BUF(const float, x), BUF(float, y), const int n, const float cap) {
    USE(const float, x);
    USE(float, y);
    if (INDEX < n) y[INDEX] = cap * TANH(x[INDEX] / cap);
}

// kind: 0 silu, 1 gelu (tanh form), 2 gelu (exact), 3 relu, 4 relu squared
KERNEL void activation(BUF(const float, x), BUF(float, y), const int n, const int kind) {
    USE(const float, x);
    USE(float, y);
    if (INDEX >= n) return;
    float v = x[INDEX], positive = v > 0.0f ? v : 0.0f;
    y[INDEX] = kind == 0   ? silu(v)
               : kind == 1 ? gelu(v)
               : kind == 2 ? 0.5f * v * (1.0f + ERF(v * 0.70710678118654752f))
               : kind == 3 ? positive
                           : positive * positive;
}

KERNEL void gated(BUF(const float, gate), BUF(const float, up), BUF(float, y), const int n, const int kind) {
    USE(const float, gate);
    USE(const float, up);
    USE(float, y);
    if (INDEX < n) y[INDEX] = (kind == 0 ? silu(gate[INDEX]) : gelu(gate[INDEX])) * up[INDEX];
}

KERNEL void select_rows(BUF(const float, x), BUF(const int, rows), BUF(float, y), const int n_row, const int width) {
    USE(const float, x);
    USE(const int, rows);
    USE(float, y);
    if (INDEX >= (i64)n_row * width) return;
    y[INDEX] = x[(i64)rows[INDEX / width] * width + INDEX % width];
}

// y = x / sqrt(mean(x^2) + epsilon) * weight, of `n_row` rows
KERNEL void rms_norm(BUF(const float, x), BUF(const float, weight), BUF(float, y), const int n_row, const int width,
                     const float epsilon) {
    USE(const float, x);
    USE(const float, weight);
    USE(float, y);
    PART;
    UNITS(n_row);
    x += (i64)UNIT * width;
    y += (i64)UNIT * width;
    float sum = 0.0f;
    for (int i = LANE; i < width; i += LANES) sum = FMA(x[i], x[i], sum);
    sum = lane_sum(sum, part);
    float factor = 1.0f / SQRT(sum / (float)width + epsilon);
    for (int i = LANE; i < width; i += LANES) y[i] = x[i] * factor * weight[i];
}

KERNEL void layer_norm(BUF(const float, x), BUF(const float, weight), BUF(const float, bias), BUF(float, y),
                       const int n_row, const int width, const float epsilon, const int has_bias) {
    USE(const float, x);
    USE(const float, weight);
    USE(const float, bias);
    USE(float, y);
    PART;
    UNITS(n_row);
    x += (i64)UNIT * width;
    y += (i64)UNIT * width;
    float sum = 0.0f, squares = 0.0f;
    for (int i = LANE; i < width; i += LANES) sum += x[i];
    float mean = lane_sum(sum, part) / (float)width;
    for (int i = LANE; i < width; i += LANES) squares = FMA(x[i] - mean, x[i] - mean, squares);
    float factor = 1.0f / SQRT(lane_sum(squares, part) / (float)width + epsilon);
    for (int i = LANE; i < width; i += LANES) y[i] = (x[i] - mean) * factor * weight[i] + (has_bias ? bias[i] : 0.0f);
}

// Rotates pair `i` of a head by position * frequency. `turns`: of each pair the turns that a position makes, as a
// fraction of 2^64, so that the product with a position is exact but for whole turns, which do not matter.
FN void rotate(GLOBAL const float *x, GLOBAL float *y, u64 turns, i64 position, int i, int n_pair, int adjacent,
               float magnitude) {
    i64 phase = (i64)(turns * (u64)position);
    float angle = (float)phase * 3.4061215800304343e-19f;  // 2 pi / 2^64
    float c = COS(angle) * magnitude, s = SIN(angle) * magnitude;
    int first = adjacent ? 2 * i : i, second = adjacent ? 2 * i + 1 : i + n_pair;
    float a = x[first], b = x[second];
    y[first] = a * c - b * s;
    y[second] = a * s + b * c;
}

// A pair or a value that stays as it is, for each item.
KERNEL void rope(BUF(const float, x), BUF(const int, positions), BUF(const u64, turns), BUF(float, y), const int n_row,
                 const int n_head, const int dim, const int n_pair, const int adjacent, const float magnitude,
                 const int sign) {
    USE(const float, x);
    USE(const int, positions);
    USE(const u64, turns);
    USE(float, y);
    int n_item = dim - n_pair;
    if (INDEX >= (i64)n_row * n_head * n_item) return;
    int i = (int)(INDEX % n_item);
    i64 head = INDEX / n_item;
    x += head * dim;
    y += head * dim;
    if (i < n_pair)
        rotate(x, y, turns[i], (i64)sign * positions[head / n_head], i, n_pair, adjacent, magnitude);
    else
        y[i + n_pair] = x[i + n_pair];
}

// Elements of states of the types f32 (0), bf16 (1) and i8 (2). Of i8, codes of 256 values share a scale; the scales lie
// behind all codes, from byte `scales` on.
FN float element(GLOBAL const u8 *state, int kind, int i, int scales) {
    if (kind == 0) return ((GLOBAL const float *)state)[i];
    if (kind == 1) return bfloat_value(((GLOBAL const u16 *)state)[i]);
    return (float)((GLOBAL const signed char *)state)[i] * ((GLOBAL const float *)(state + scales))[i / 256];
}

FN void set_element(GLOBAL u8 *state, int kind, int i, float x) {
    if (kind == 0)
        ((GLOBAL float *)state)[i] = x;
    else
        ((GLOBAL u16 *)state)[i] = (u16)bfloat_bits(x);
}

// Up to 256 elements of i8 from `first` on.
FN void set_codes(GLOBAL u8 *state, int first, int n, int scales, const float *x) {
    float most = 0.0f;
    for (int i = 0; i < n; ++i) most = FABS(x[i]) > most ? FABS(x[i]) : most;
    float scale = most / 127.0f;
    ((GLOBAL float *)(state + scales))[first / 256] = scale;
    for (int i = 0; i < n; ++i)
        ((GLOBAL signed char *)state)[first + i] = (signed char)(scale > 0.0f ? RINT(x[i] / scale) : 0.0f);
}

// What all elements come to: kind 0 sum, 1 sum of squares, 2 largest magnitude. Each item takes a part, with what the
// rounding of its sum lost; `finish_reduce` puts the parts together.
KERNEL void reduce(BUF(const u8, state), BUF(float, parts), const int n, const int dtype, const int scales,
                   const int kind, const int n_part) {
    USE(const u8, state);
    USE(float, parts);
    if (INDEX >= n_part) return;
    int begin = (int)((i64)n * INDEX / n_part), end = (int)((i64)n * (INDEX + 1) / n_part);
    float sum = 0.0f, lost = 0.0f;
    for (int i = begin; i < end; ++i) {
        float x = element(state, dtype, i, scales);
        if (kind == 2) {
            sum = FABS(x) > sum ? FABS(x) : sum;
            continue;
        }
        float term = (kind == 1 ? x * x : x) - lost, next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    parts[INDEX] = sum;
}

KERNEL void finish_reduce(BUF(const float, parts), BUF(float, y), const int kind, const int n_part) {
    USE(const float, parts);
    USE(float, y);
    if (INDEX > 0) return;
    float sum = 0.0f, lost = 0.0f;
    for (int i = 0; i < n_part; ++i) {
        if (kind == 2) {
            sum = parts[i] > sum ? parts[i] : sum;
            continue;
        }
        float term = parts[i] - lost, next = sum + term;
        lost = (next - sum) - term;
        sum = next;
    }
    y[0] = sum;
}

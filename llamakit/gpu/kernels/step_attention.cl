// Attention without a cache: rows of a sequence see the rows of it before them. HEAD_K, HEAD_V: values of a head.
// Whether row `other` is seen by row `r`.
FN int sees(GLOBAL const int *positions, GLOBAL const int *sequences, int r, int other, int window) {
    if (sequences[other] != sequences[r] || positions[other] > positions[r]) return 0;
    return window <= 0 || positions[other] > positions[r] - window;
}

KERNEL void step_attention(BUF(const float, q), BUF(const float, k), BUF(const float, v), BUF(const int, positions),
                           BUF(const int, sequences), BUF(const float, slopes), BUF(const float, sinks), BUF(float, y),
                           BUF(float, log_sums), const int n_row, const int n_head, const int n_head_kv,
                           const int window, const int has_slopes, const int has_sinks, const int has_log_sums,
                           const float factor, const float cap) {
    USE(const float, q);
    USE(const float, k);
    USE(const float, v);
    USE(const int, positions);
    USE(const int, sequences);
    USE(const float, slopes);
    USE(const float, sinks);
    USE(float, y);
    USE(float, log_sums);
    if (INDEX >= (i64)n_row * n_head) return;
    int r = (int)(INDEX / n_head), head = (int)(INDEX % n_head), kv_head = head / (n_head / n_head_kv);
    q += INDEX * HEAD_K;
    float top = has_sinks ? sinks[head] : MINUS_INFINITY, sum = has_sinks ? 1.0f : 0.0f, out[HEAD_V];
    for (int i = 0; i < HEAD_V; ++i) out[i] = 0.0f;
    for (int other = 0; other <= r; ++other) {
        if (!sees(positions, sequences, r, other, window)) continue;
        GLOBAL const float *key = k + ((i64)other * n_head_kv + kv_head) * HEAD_K;
        GLOBAL const float *value = v + ((i64)other * n_head_kv + kv_head) * HEAD_V;
        float score = 0.0f;
        for (int i = 0; i < HEAD_K; ++i) score = FMA(q[i], key[i], score);
        score *= factor;
        if (cap > 0.0f) score = cap * TANH(score / cap);
        if (has_slopes) score += slopes[head] * (float)(positions[other] - positions[r]);
        float old = top;
        top = score > top ? score : top;
        float rescale = EXP(old - top), weight = EXP(score - top);
        sum = sum * rescale + weight;
        for (int i = 0; i < HEAD_V; ++i) out[i] = FMA(weight, value[i], out[i] * rescale);
    }
    for (int i = 0; i < HEAD_V; ++i) y[INDEX * HEAD_V + i] = out[i] / sum;
    if (has_log_sums) log_sums[INDEX] = top + LOG(sum);
}

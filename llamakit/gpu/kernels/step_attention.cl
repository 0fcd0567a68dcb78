// Attention without a cache: rows of a sequence see the rows of it before them. HEAD_K, HEAD_V: values of a head. Weights
// of CHUNK rows at a time are made by the items side by side, then each item adds up some values of the head.
#define OWN_K ((HEAD_K + LANES - 1) / LANES)
#define OWN_V ((HEAD_V + LANES - 1) / LANES)

// Whether row `other` is seen by row `r`.
FN int sees(GLOBAL const int *positions, GLOBAL const int *sequences, int r, int other, int window) {
    if (sequences[other] != sequences[r] || positions[other] > positions[r]) return 0;
    return window <= 0 || positions[other] > positions[r] - window;
}

FN float dot_heads(GLOBAL const float *a, GLOBAL const float *b, int n) {
    float sum = 0.0f;
    for (int i = 0; i < n; ++i) sum = FMA(a[i], b[i], sum);
    return sum;
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
    PART;
    SPACE float scores[CHUNK];
    UNITS(n_row * n_head);
    int r = UNIT / n_head, head = UNIT % n_head, kv_head = head / (n_head / n_head_kv);
    float top = has_sinks ? sinks[head] : MINUS_INFINITY, sum = has_sinks ? 1.0f : 0.0f, out[OWN_V];
    for (int i = 0; i < OWN_V; ++i) out[i] = 0.0f;
    for (int start = 0; start <= r; start += CHUNK) {
        int n = r + 1 - start < CHUNK ? r + 1 - start : CHUNK;
        float most = MINUS_INFINITY, more = 0.0f;
        for (int j = LANE; j < n; j += LANES) {
            int other = start + j;
            float score = MINUS_INFINITY;
            if (sees(positions, sequences, r, other, window)) {
                GLOBAL const float *key = k + ((i64)other * n_head_kv + kv_head) * HEAD_K;
                score = factor * dot_heads(q + (i64)UNIT * HEAD_K, key, HEAD_K);
                if (cap > 0.0f) score = cap * TANH(score / cap);
                if (has_slopes) score += slopes[head] * (float)(positions[other] - positions[r]);
            }
            scores[j] = score;
            most = score > most ? score : most;
        }
        most = lane_max(most, part);
        float old = top;
        top = most > top ? most : top;
        float base = top > MINUS_INFINITY ? top : 0.0f, rescale = EXP(old - base);
        for (int j = LANE; j < n; j += LANES) {
            scores[j] = EXP(scores[j] - base);
            more += scores[j];
        }
        sum = sum * rescale + lane_sum(more, part);
        MEET;
        for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) {
            float value = out[o] * rescale;
            for (int j = 0; j < n; ++j)
                value = FMA(scores[j], v[((i64)(start + j) * n_head_kv + kv_head) * HEAD_V + i], value);
            out[o] = value;
        }
        MEET;
    }
    for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) y[(i64)UNIT * HEAD_V + i] = out[o] / sum;
    if (has_log_sums && LANE == 0) log_sums[UNIT] = top + LOG(sum);
}

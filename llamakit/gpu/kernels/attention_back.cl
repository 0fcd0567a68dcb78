// Gradients of attention among the rows of a step; Dao et al. 2022, arXiv:2205.14135, appendix B. step_attention.cl
// comes before this file.

// sum(d_out out) of each row and head
KERNEL void inner_rows(BUF(const float, out), BUF(const float, d_out), BUF(float, inner), const int n) {
    USE(const float, out);
    USE(const float, d_out);
    USE(float, inner);
    if (INDEX < n) inner[INDEX] = dot_heads(out + INDEX * HEAD_V, d_out + INDEX * HEAD_V, HEAD_V);
}

// The weight of a key for a query, and the gradient of its score.
FN float weight_of(GLOBAL const float *q, GLOBAL const float *k, GLOBAL const float *v, GLOBAL const float *d_out,
                   float log_sum, float inner, float factor, float *d_score) {
    float p = EXP(dot_heads(q, k, HEAD_K) * factor - log_sum);
    *d_score = p * (dot_heads(d_out, v, HEAD_V) - inner) * factor;
    return p;
}

KERNEL void query_back(BUF(const float, q), BUF(const float, k), BUF(const float, v), BUF(const float, d_out),
                       BUF(const float, log_sums), BUF(const float, inner), BUF(const int, positions),
                       BUF(const int, sequences), BUF(float, dq), const int n_row, const int n_head,
                       const int n_head_kv, const int window, const float factor) {
    USE(const float, q);
    USE(const float, k);
    USE(const float, v);
    USE(const float, d_out);
    USE(const float, log_sums);
    USE(const float, inner);
    USE(const int, positions);
    USE(const int, sequences);
    USE(float, dq);
    SPACE float d_scores[CHUNK];
    UNITS(n_row * n_head);
    int r = UNIT / n_head, kv_head = UNIT % n_head / (n_head / n_head_kv);
    float sums[OWN_K];
    for (int i = 0; i < OWN_K; ++i) sums[i] = 0.0f;
    for (int start = 0; start <= r; start += CHUNK) {
        int n = r + 1 - start < CHUNK ? r + 1 - start : CHUNK;
        for (int j = LANE; j < n; j += LANES) {
            i64 at = (i64)(start + j) * n_head_kv + kv_head, own = UNIT;
            float d_score = 0.0f;
            if (sees(positions, sequences, r, start + j, window))
                weight_of(q + own * HEAD_K, k + at * HEAD_K, v + at * HEAD_V, d_out + own * HEAD_V, log_sums[own],
                          inner[own], factor, &d_score);
            d_scores[j] = d_score;
        }
        MEET;
        for (int i = LANE, o = 0; i < HEAD_K; i += LANES, ++o)
            for (int j = 0; j < n; ++j)
                sums[o] = FMA(d_scores[j], k[((i64)(start + j) * n_head_kv + kv_head) * HEAD_K + i], sums[o]);
        MEET;
    }
    for (int i = LANE, o = 0; i < HEAD_K; i += LANES, ++o) dq[(i64)UNIT * HEAD_K + i] = sums[o];
}

// Of a key and value the rows and heads that see them, in order: pair number j is row own + j / group, and head j % group
// of those that share the key.
KERNEL void key_back(BUF(const float, q), BUF(const float, k), BUF(const float, v), BUF(const float, d_out),
                     BUF(const float, log_sums), BUF(const float, inner), BUF(const int, positions),
                     BUF(const int, sequences), BUF(float, dk), BUF(float, dv), const int n_row, const int n_head,
                     const int n_head_kv, const int window, const float factor) {
    USE(const float, q);
    USE(const float, k);
    USE(const float, v);
    USE(const float, d_out);
    USE(const float, log_sums);
    USE(const float, inner);
    USE(const int, positions);
    USE(const int, sequences);
    USE(float, dk);
    USE(float, dv);
    SPACE float d_scores[CHUNK];
    SPACE float weights[CHUNK];
    UNITS(n_row * n_head_kv);
    int own = UNIT / n_head_kv, kv_head = UNIT % n_head_kv, group = n_head / n_head_kv;
    int n_pair = (n_row - own) * group;
    float keys[OWN_K], values[OWN_V];
    for (int i = 0; i < OWN_K; ++i) keys[i] = 0.0f;
    for (int i = 0; i < OWN_V; ++i) values[i] = 0.0f;
    for (int start = 0; start < n_pair; start += CHUNK) {
        int n = n_pair - start < CHUNK ? n_pair - start : CHUNK;
        for (int j = LANE; j < n; j += LANES) {
            int r = own + (start + j) / group;
            i64 at = (i64)r * n_head + kv_head * group + (start + j) % group, mine = UNIT;
            float d_score = 0.0f, p = 0.0f;
            if (sees(positions, sequences, r, own, window))
                p = weight_of(q + at * HEAD_K, k + mine * HEAD_K, v + mine * HEAD_V, d_out + at * HEAD_V, log_sums[at],
                              inner[at], factor, &d_score);
            d_scores[j] = d_score;
            weights[j] = p;
        }
        MEET;
        for (int j = 0; j < n; ++j) {
            i64 at = (i64)(own + (start + j) / group) * n_head + kv_head * group + (start + j) % group;
            for (int i = LANE, o = 0; i < HEAD_K; i += LANES, ++o)
                keys[o] = FMA(d_scores[j], q[at * HEAD_K + i], keys[o]);
            for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o)
                values[o] = FMA(weights[j], d_out[at * HEAD_V + i], values[o]);
        }
        MEET;
    }
    for (int i = LANE, o = 0; i < HEAD_K; i += LANES, ++o) dk[(i64)UNIT * HEAD_K + i] = keys[o];
    for (int i = LANE, o = 0; i < HEAD_V; i += LANES, ++o) dv[(i64)UNIT * HEAD_V + i] = values[o];
}

// Mixtures of experts, and adapters by slot.

// Of each row the `n_used` experts with the highest scores, of equals the first, and their shares.
KERNEL void choose(BUF(const float, scores), BUF(int, chosen), BUF(float, shares), const int n_row, const int n_expert,
                   const int n_used, const int normalise) {
    USE(const float, scores);
    USE(int, chosen);
    USE(float, shares);
    if (INDEX >= n_row) return;
    scores += INDEX * n_expert;
    chosen += INDEX * n_used;
    shares += INDEX * n_used;
    float last = 0.0f, top = 0.0f, all = 0.0f, used = 0.0f;
    for (int u = 0; u < n_used; ++u) {
        int best = -1;
        for (int e = 0; e < n_expert; ++e) {
            float s = scores[e];
            int before = u > 0 && (s > last || (s == last && e <= chosen[u - 1]));  // chosen already
            if (!before && (best < 0 || s > scores[best])) best = e;
        }
        chosen[u] = best < 0 ? 0 : best;  // scores that are no numbers
        last = scores[chosen[u]];
        if (u == 0) top = last;
    }
    for (int e = 0; e < n_expert; ++e) all += EXP(scores[e] - top);
    for (int u = 0; u < n_used; ++u) {
        shares[u] = EXP(scores[chosen[u]] - top);
        used += shares[u];
    }
    for (int u = 0; u < n_used; ++u) shares[u] /= normalise ? used : all;
}

// Of each row the sum of what its experts made, by their shares.
KERNEL void combine(BUF(const float, made), BUF(const float, shares), BUF(float, y), const int n_row, const int n_used,
                    const int width) {
    USE(const float, made);
    USE(const float, shares);
    USE(float, y);
    if (INDEX >= (i64)n_row * width) return;
    i64 r = INDEX / width;
    float sum = 0.0f;
    for (int u = 0; u < n_used; ++u)
        sum = FMA(shares[r * n_used + u], made[(r * n_used + u) * width + INDEX % width], sum);
    y[INDEX] = sum;
}

// Each row of x for all of its pairs.
KERNEL void repeat_rows(BUF(const float, x), BUF(float, y), const int n_pair, const int n_used, const int width) {
    USE(const float, x);
    USE(float, y);
    if (INDEX < (i64)n_pair * width) y[INDEX] = x[INDEX / width / n_used * width + INDEX % width];
}

// `entries`: of each slot the rank, where A and where B begin in `pool`, and the bits of the scale.
#define RANK(slot) entries[4 * (slot)]
#define PART_A(slot) (pool + entries[4 * (slot) + 1])
#define PART_B(slot) (pool + entries[4 * (slot) + 2])
#define SCALE(slot) BITS_FLOAT((u32)entries[4 * (slot) + 3])

// h[r, j] = scale * x[r] . A[j], or scale * B[token, j] of an embedding
KERNEL void shrink(BUF(const float, x), BUF(const int, tokens), BUF(const int, slots), BUF(const int, entries),
                   BUF(const float, pool), BUF(float, h), const int n_row, const int n_in, const int most_rank,
                   const int embedding) {
    USE(const float, x);
    USE(const int, tokens);
    USE(const int, slots);
    USE(const int, entries);
    USE(const float, pool);
    USE(float, h);
    if (INDEX >= (i64)n_row * most_rank) return;
    int r = (int)(INDEX / most_rank), j = (int)(INDEX % most_rank), slot = slots[r], rank = RANK(slot);
    if (j >= rank) return;
    float sum = 0.0f;
    if (embedding) {
        sum = PART_B(slot)[(i64)tokens[r] * rank + j];
    } else {
        GLOBAL const float *a = PART_A(slot) + (i64)j * n_in;
        for (int i = 0; i < n_in; ++i) sum = FMA(a[i], x[(i64)r * n_in + i], sum);
    }
    h[INDEX] = SCALE(slot) * sum;
}

// y[r, o] += h[r] . B[o], or h[r] . A[:, o] of an embedding
KERNEL void expand(BUF(const float, h), BUF(const int, slots), BUF(const int, entries), BUF(const float, pool),
                   BUF(float, y), const int n_row, const int n_out, const int most_rank, const int embedding) {
    USE(const float, h);
    USE(const int, slots);
    USE(const int, entries);
    USE(const float, pool);
    USE(float, y);
    if (INDEX >= (i64)n_row * n_out) return;
    int r = (int)(INDEX / n_out), o = (int)(INDEX % n_out), slot = slots[r], rank = RANK(slot);
    float sum = 0.0f;
    h += (i64)r * most_rank;
    for (int j = 0; j < rank; ++j)
        sum = FMA(h[j], embedding ? PART_A(slot)[(i64)j * n_out + o] : PART_B(slot)[(i64)o * rank + j], sum);
    if (rank > 0) y[INDEX] += sum;
}

// What a norm's adapter adds to its weight: y += x / sqrt(mean(x^2) + epsilon) * scale * B, for one row an item.
KERNEL void norm_adapter(BUF(const float, x), BUF(const int, slots), BUF(const int, entries), BUF(const float, pool),
                         BUF(float, y), const int n_row, const int n_head, const int width, const float epsilon) {
    USE(const float, x);
    USE(const int, slots);
    USE(const int, entries);
    USE(const float, pool);
    USE(float, y);
    if (INDEX >= (i64)n_row * n_head) return;
    int slot = slots[INDEX / n_head];
    if (RANK(slot) == 0) return;
    x += INDEX * width;
    y += INDEX * width;
    float sum = 0.0f;
    for (int i = 0; i < width; ++i) sum = FMA(x[i], x[i], sum);
    float factor = SCALE(slot) / SQRT(sum / (float)width + epsilon);
    for (int i = 0; i < width; ++i) y[i] += x[i] * factor * PART_B(slot)[i];
}

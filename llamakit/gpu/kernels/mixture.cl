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

// Pairs of a row and an expert, sorted by expert, so that rows of one expert meet its weights together. First how many
// pairs each expert has, an item each.
KERNEL void count_pairs(BUF(const int, chosen), BUF(int, counts), const int n_pair, const int n_expert) {
    USE(const int, chosen);
    USE(int, counts);
    if (INDEX >= n_expert) return;
    int n = 0;
    for (int i = 0; i < n_pair; ++i) n += chosen[i] == INDEX;
    counts[INDEX] = n;
}

// Then the pairs in their order, those of an expert filled up with -1 to whole tiles, and of each tile the expert. The item
// behind those of the experts says of the tiles that are left that nobody has them.
KERNEL void place_pairs(BUF(const int, chosen), BUF(const int, counts), BUF(int, order), BUF(int, owners),
                        const int n_pair, const int n_expert, const int tile, const int n_tile) {
    USE(const int, chosen);
    USE(const int, counts);
    USE(int, order);
    USE(int, owners);
    if (INDEX > n_expert) return;
    int at = 0, expert = (int)INDEX;
    for (int e = 0; e < expert; ++e) at += (counts[e] + tile - 1) / tile;
    if (expert == n_expert) {
        for (; at < n_tile; ++at) owners[at] = -1;
        return;
    }
    int end = at + (counts[expert] + tile - 1) / tile;
    for (int i = at; i < end; ++i) owners[i] = expert;
    at *= tile;
    for (int i = 0; i < n_pair; ++i)
        if (chosen[i] == expert) order[at++] = i;
    for (; at < end * tile; ++at) order[at] = -1;
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

// What an item of a unit has of a product of two rows. Alone it has all, in eight sums that do not wait for one another.
FN float dot_lane(GLOBAL const float *a, GLOBAL const float *b, int n) {
    float sums[8];
    for (int i = 0; i < 8; ++i) sums[i] = 0.0f;
#if LANES > 1
    for (int i = LANE; i < n; i += LANES) sums[0] = FMA(a[i], b[i], sums[0]);
#else
    int at = 0;
    for (; at + 8 <= n; at += 8)
        for (int i = 0; i < 8; ++i) sums[i] = FMA(a[at + i], b[at + i], sums[i]);
    for (; at < n; ++at) sums[0] = FMA(a[at], b[at], sums[0]);
#endif
    for (int i = 1; i < 8; ++i) sums[0] += sums[i];
    return sums[0];
}

// `entries`: of each slot the rank, where A and where B begin in `pool`, and the bits of the scale.
#define RANK(slot) entries[4 * (slot)]
#define PART_A(slot) (pool + entries[4 * (slot) + 1])
#define PART_B(slot) (pool + entries[4 * (slot) + 2])
#define SCALE(slot) BITS_FLOAT((u32)entries[4 * (slot) + 3])

// h[r, j] = scale * x[r] . A[j], or scale * B[token, j] of an embedding; a unit for each
KERNEL void shrink(BUF(const float, x), BUF(const int, tokens), BUF(const int, slots), BUF(const int, entries),
                   BUF(const float, pool), BUF(float, h), const int n_row, const int n_in, const int most_rank,
                   const int embedding) {
    USE(const float, x);
    USE(const int, tokens);
    USE(const int, slots);
    USE(const int, entries);
    USE(const float, pool);
    USE(float, h);
    PART;
    UNITS(n_row * most_rank);
    int r = UNIT / most_rank, j = UNIT % most_rank, slot = slots[r], rank = RANK(slot);
    int here = j < rank;  // units that have nothing to do meet all the same: see panel_rows.cl
    float sum = 0.0f;
    if (embedding) {
        if (here) sum = PART_B(slot)[(i64)tokens[r] * rank + j];
    } else {
        sum = lane_sum(dot_lane(PART_A(slot) + (i64)j * n_in, x + (i64)r * n_in, here ? n_in : 0), part);
    }
    if (LANE == 0 && here) h[UNIT] = SCALE(slot) * sum;
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

// What a norm's adapter adds to its weight: y += x / sqrt(mean(x^2) + epsilon) * scale * B, for one row a unit.
KERNEL void norm_adapter(BUF(const float, x), BUF(const int, slots), BUF(const int, entries), BUF(const float, pool),
                         BUF(float, y), const int n_row, const int n_head, const int width, const float epsilon) {
    USE(const float, x);
    USE(const int, slots);
    USE(const int, entries);
    USE(const float, pool);
    USE(float, y);
    PART;
    UNITS(n_row * n_head);
    int slot = slots[UNIT / n_head];
    x += (i64)UNIT * width;
    y += (i64)UNIT * width;
    float factor = SCALE(slot) / SQRT(lane_sum(dot_lane(x, x, width), part) / (float)width + epsilon);
    if (RANK(slot) == 0) return;  // not before items meet: PoCL made a kernel of that which faults at widths below LANES
    for (int i = LANE; i < width; i += LANES) y[i] += x[i] * factor * PART_B(slot)[i];
}

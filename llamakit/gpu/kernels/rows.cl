// What reads rows of a packed tensor: products with few rows, and rows as float32. A part is `n_part` rows of the tensor
// from row `first` on, since one buffer may not hold all of them.
FN i64 row_size(int n_in) { return (i64)n_in * BYTES / BLOCK; }

FN GLOBAL const u8 *block_of(GLOBAL const u8 *row, int chunk) { return row + (i64)(chunk / (BLOCK / 32)) * BYTES; }

#ifdef TILE
// y[r, o] = x[r] . w[o] (+ bias[o]) for TILE rows of x and one row of w. With PAIRS, row r is a pair: it takes row
// r / share of x, and the matrix of the expert that `chosen` names. With SORTED, `chosen` is what `place_pairs` makes, of
// `n_row` tiles: the pairs of each, then the experts.
KERNEL void linear(BUF(const u8, w), BUF(const float, x), BUF(const float, bias), BUF(float, y), BUF(const int, chosen),
                   const int first, const int n_part, const int n_row, const int n_out, const int n_in,
                   const int has_bias, const int share) {
    USE(const u8, w);
    USE(const float, x);
    USE(const float, bias);
    USE(float, y);
    USE(const int, chosen);
    PART;
#ifdef PAIRS
    UNITS(n_row * n_out);
    int o = UNIT % n_out, r0 = UNIT / n_out;
    i64 row = (i64)chosen[r0] * n_out + o - first;
    int here = row >= 0 && row < n_part;  // units that have nothing to do meet all the same: see panel_rows.cl
#elif defined(SORTED)
    UNITS(n_row * n_out);
    int o = UNIT % n_out, tile = UNIT / n_out, owner = chosen[n_row * TILE + tile];
    i64 row = (i64)owner * n_out + o - first;
    int here = owner >= 0 && row >= 0 && row < n_part;
    GLOBAL const int *pairs = chosen + tile * TILE;
#else
    UNITS((n_row + TILE - 1) / TILE * n_part);
    int row = UNIT % n_part, r0 = UNIT / n_part * TILE, o = first + row;
    const int here = 1;
#endif
    GLOBAL const u8 *from = w + row * row_size(n_in);
    GLOBAL const float *rows[TILE];
    float sums[TILE][8], v[32];
    for (int t = 0; t < TILE; ++t) {
#ifdef SORTED
        int r = pairs[t] >= 0 ? pairs[t] : pairs[0];
#else
        int r = r0 + t < n_row ? r0 + t : n_row - 1;
#endif
        rows[t] = x + (i64)(r / share) * n_in;
        for (int i = 0; i < 8; ++i) sums[t][i] = 0.0f;
    }
    int n_chunk = here ? n_in / 32 : 0, left = here ? n_in % 32 : 0;
    for (int c = LANE; c < n_chunk; c += LANES) {
        decode(block_of(from, c), c % (BLOCK / 32), 32, v);
        for (int t = 0; t < TILE; ++t)
            for (int j = 0; j < 32; j += 8)
                for (int i = 0; i < 8; ++i) sums[t][i] = FMA(v[j + i], rows[t][32 * c + j + i], sums[t][i]);
    }
    if (left && LANE == n_chunk % LANES) {
        decode(block_of(from, n_chunk), 0, left, v);
        for (int t = 0; t < TILE; ++t)
            for (int i = 0; i < left; ++i) sums[t][0] = FMA(v[i], rows[t][32 * n_chunk + i], sums[t][0]);
    }
    for (int t = 0; t < TILE; ++t) {
        float sum = 0.0f;
        for (int i = 0; i < 8; ++i) sum += sums[t][i];
        sum = lane_sum(sum, part);
#ifdef SORTED
        if (LANE == 0 && here && pairs[t] >= 0) y[(i64)pairs[t] * n_out + o] = sum;
#else
        if (LANE == 0 && here && r0 + t < n_row) y[(i64)(r0 + t) * n_out + o] = sum + (has_bias ? bias[o] : 0.0f);
#endif
    }
}
#endif

// y[r] = row `chosen[r]`, or row begin + r, of the tensor, 32 values an item. Rows of other parts are left alone.
KERNEL void decode_rows(BUF(const u8, w), BUF(const int, chosen), BUF(float, y), const int first, const int n_part,
                        const int n_row, const int n_in, const int begin, const int by_index) {
    USE(const u8, w);
    USE(const int, chosen);
    USE(float, y);
    int n_chunk = (n_in + 31) / 32;
    if (INDEX >= (i64)n_row * n_chunk) return;
    int c = (int)(INDEX % n_chunk), r = (int)(INDEX / n_chunk);
    int row = (by_index ? chosen[r] : begin + r) - first, left = n_in - 32 * c;
    if (row < 0 || row >= n_part) return;
    float v[32];
    decode(block_of(w + row * row_size(n_in), c), c % (BLOCK / 32), left, v);
    GLOBAL float *to = y + (i64)r * n_in + 32 * c;
    for (int i = 0; i < 32; ++i)
        if (i < left) to[i] = v[i];
}

// y[r] += d[r] W of the expert that `chosen` names, 32 values of a row an item; the experts' rows of this part.
KERNEL void expert_back(BUF(const u8, w), BUF(const float, d), BUF(const int, chosen), BUF(float, y), const int first,
                        const int n_part, const int n_row, const int n_out, const int n_in) {
    USE(const u8, w);
    USE(const float, d);
    USE(const int, chosen);
    USE(float, y);
    int n_chunk = (n_in + 31) / 32;
    if (INDEX >= (i64)n_row * n_chunk) return;
    int c = (int)(INDEX % n_chunk), r = (int)(INDEX / n_chunk), left = n_in - 32 * c;
    float v[32], sums[32];
    zeros(sums);
    for (int o = 0; o < n_out; ++o) {
        i64 row = (i64)chosen[r] * n_out + o - first;
        if (row < 0 || row >= n_part) continue;
        decode(block_of(w + row * row_size(n_in), c), c % (BLOCK / 32), left, v);
        float factor = d[(i64)r * n_out + o];
        for (int i = 0; i < 32; ++i) sums[i] = FMA(factor, v[i], sums[i]);
    }
    GLOBAL float *to = y + (i64)r * n_in + 32 * c;
    for (int i = 0; i < 32; ++i)
        if (i < left) to[i] += sums[i];
}

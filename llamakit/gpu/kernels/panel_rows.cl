// What reads rows of panels: with a TILE products with few rows, else what takes rows as float32. A part is `n_part` rows of
// the tensor from row `first` on, of which the first is the first of a panel.
FN GLOBAL const u8 *panel_of(GLOBAL const u8 *w, i64 row, int n_in) { return w + row / PANEL * panel_size(n_in); }

#ifdef TILE
// Eight neighbouring values of a row of activations from column `k` on; what is behind its end is zero.
FN void eight_of(GLOBAL const float *x, int k, int n_in, float *to) {
#if ALIGNED  // rows are multiples of 32, so that they and what is in them are aligned
    if (k >= n_in) {
        for (int j = 0; j < 8; ++j) to[j] = 0.0f;
        return;
    }
    float4 a = *(GLOBAL const float4 *)(x + k), b = *(GLOBAL const float4 *)(x + k + 4);
    to[0] = a.x;
    to[1] = a.y;
    to[2] = a.z;
    to[3] = a.w;
    to[4] = b.x;
    to[5] = b.y;
    to[6] = b.z;
    to[7] = b.w;
#else
    for (int j = 0; j < 8; ++j) to[j] = k + j < n_in ? x[k + j] : 0.0f;
#endif
}

// ITEMS of a group, or one alone, take a panel together. Each 32 of them, a warp, have their share of the steps, an item
// one place of each; where there are fewer than 32, an item has several places, one after the other.
#define WARPS (ITEMS > PLACES ? ITEMS / PLACES : 1)
#define TOGETHER (ITEMS < PLACES ? ITEMS : PLACES)
#define PARTS (WARPS * PLACES)

// y[r, o] = x[r] . w[o] (+ bias[o]) for TILE rows of x and the rows of a panel. With PAIRS, row r is a pair: it takes row
// r / share of x, and the matrix of the expert that `chosen` names. With SORTED, `chosen` is what `place_pairs` makes, of
// `n_row` tiles: the pairs of each, then the experts. An expert's rows may begin and end within a panel.
KERNEL void panel_linear(BUF(const u8, w), BUF(const float, x), BUF(const float, bias), BUF(float, y),
                         BUF(const int, chosen), const int first, const int n_part, const int n_row, const int n_out,
                         const int n_in, const int has_bias, const int share) {
    USE(const u8, w);
    USE(const float, x);
    USE(const float, bias);
    USE(float, y);
    USE(const int, chosen);
    SPACE float part[2 * TILE * PARTS];
#if defined(PAIRS) || defined(SORTED)
    int n_panel = (n_out + 2 * PANEL - 2) / PANEL, r0 = UNIT / n_panel;
    UNITS(n_row * n_panel);
#ifdef SORTED
    int owner = chosen[n_row * TILE + r0];
    GLOBAL const int *pairs = chosen + r0 * TILE;
#else
    int owner = chosen[r0];
#endif
    i64 begin = (i64)owner * n_out, row0 = (begin / PANEL + UNIT % n_panel) * PANEL;
    // Units that have nothing to do meet all the same: of an earlier return PoCL makes kernels that may fault.
    int here = owner >= 0 && row0 < begin + n_out && row0 >= first && row0 < (i64)first + n_part;
#else
    int n_tile = (n_row + TILE - 1) / TILE, r0 = UNIT % n_tile * TILE;  // tiles that share a panel run side by side
    UNITS((n_part + PANEL - 1) / PANEL * n_tile);
    i64 begin = 0, row0 = (i64)first + UNIT / n_tile * PANEL;
    const int here = 1;
#endif
    GLOBAL const u8 *panel = panel_of(w, row0 - first, n_in);
    GLOBAL const float *rows[TILE];
    for (int i = 0; i < TILE; ++i) {
#ifdef SORTED
        int r = pairs[i] >= 0 ? pairs[i] : pairs[0];
#else
        int r = r0 + i < n_row ? r0 + i : n_row - 1;
#endif
        rows[i] = x + (i64)(r / share) * n_in;
    }
    int n_step = here ? steps_of(n_in) : 0, n_sum = here ? PANEL * TILE : 0;
    for (int place = LANE % PLACES; place < PLACES; place += TOGETHER) {
        float sums[TILE][2];
        for (int i = 0; i < TILE; ++i) sums[i][0] = sums[i][1] = 0.0f;
        for (int step = LANE / PLACES; step < n_step; step += WARPS) {
            float v[4][8], given[8];
            place_values(panel, n_in, step, place, v);
            for (int block = 0; block < 2; ++block)
                for (int i = 0; i < TILE; ++i) {
                    eight_of(rows[i], STEP * step + 32 * block + place % 4 * 8, n_in, given);
                    for (int j = 0; j < 8; ++j) {
                        sums[i][0] = FMA(v[2 * block][j], given[j], sums[i][0]);
                        sums[i][1] = FMA(v[2 * block + 1][j], given[j], sums[i][1]);
                    }
                }
        }
        for (int i = 0; i < 2 * TILE; ++i) part[i * PARTS + LANE / PLACES * PLACES + place] = sums[i / 2][i % 2];
    }
    MEET;
    for (int at = LANE; at < n_sum; at += ITEMS) {
        int i = at / PANEL, in = at % PANEL;
        i64 row = row0 + in, o = row - begin;
        if (o < 0 || o >= n_out || row >= (i64)first + n_part) continue;
        float sum = 0.0f;
        for (int warp = 0; warp < WARPS; ++warp)
            for (int t = 0; t < 4; ++t) sum += part[(2 * i + in / 8) * PARTS + warp * PLACES + 4 * (in % 8) + t];
#ifdef SORTED
        if (pairs[i] >= 0) y[(i64)pairs[i] * n_out + o] = sum;
#else
        if (r0 + i < n_row) y[(i64)(r0 + i) * n_out + o] = sum + (has_bias ? bias[o] : 0.0f);
#endif
    }
}
#else
// Rows begin to begin + n_row of the part as float32, an item a place of a step.
KERNEL void panel_decode(BUF(const u8, w), BUF(float, y), const int begin, const int n_row, const int n_in) {
    USE(const u8, w);
    USE(float, y);
    int n_step = steps_of(n_in), place = (int)(INDEX % PLACES), step = (int)(INDEX / PLACES % n_step);
    i64 panel = begin / PANEL + INDEX / PLACES / n_step;
    if (panel * PANEL >= (i64)begin + n_row) return;
    float v[4][8];
    place_values(w + panel * panel_size(n_in), n_in, step, place, v);
    for (int i = 0; i < 4; ++i) {
        i64 row = panel * PANEL + place / 4 + i % 2 * 8 - begin;
        int k = STEP * step + i / 2 * 32 + place % 4 * 8;
        if (row < 0 || row >= n_row) continue;
        for (int j = 0; j < 8; ++j)
            if (k + j < n_in) y[row * n_in + k + j] = v[i][j];
    }
}

// y[r] = row `chosen[r]` of the tensor, an item for a quarter of a step. Rows of other parts are left alone.
KERNEL void panel_gather(BUF(const u8, w), BUF(const int, chosen), BUF(float, y), const int first, const int n_part,
                         const int n_row, const int n_in) {
    USE(const u8, w);
    USE(const int, chosen);
    USE(float, y);
    int n_quarter = 4 * steps_of(n_in);
    if (INDEX >= (i64)n_row * n_quarter) return;
    int t = (int)(INDEX % 4), step = (int)(INDEX % n_quarter / 4), r = (int)(INDEX / n_quarter), row = chosen[r] - first;
    if (row < 0 || row >= n_part) return;
    float v[4][8];
    place_values(panel_of(w, row, n_in), n_in, step, row % 8 * 4 + t, v);
    for (int i = 0; i < 4; ++i) {
        int k = STEP * step + i / 2 * 32 + 8 * t;
        if (i % 2 != row % PANEL / 8) continue;
        for (int j = 0; j < 8; ++j)
            if (k + j < n_in) y[(i64)r * n_in + k + j] = v[i][j];
    }
}

// y[r] += d[r] W of the expert that `chosen` names, an item for a quarter of a step; the experts' rows of this part.
KERNEL void panel_expert_back(BUF(const u8, w), BUF(const float, d), BUF(const int, chosen), BUF(float, y),
                              const int first, const int n_part, const int n_row, const int n_out, const int n_in) {
    USE(const u8, w);
    USE(const float, d);
    USE(const int, chosen);
    USE(float, y);
    int n_quarter = 4 * steps_of(n_in);
    if (INDEX >= (i64)n_row * n_quarter) return;
    int t = (int)(INDEX % 4), step = (int)(INDEX % n_quarter / 4), r = (int)(INDEX / n_quarter);
    float v[4][8], sums[2][8];
    for (int i = 0; i < 16; ++i) sums[i / 8][i % 8] = 0.0f;
    for (int o = 0; o < n_out; ++o) {
        i64 row = (i64)chosen[r] * n_out + o - first;
        if (row < 0 || row >= n_part) continue;
        place_values(panel_of(w, row, n_in), n_in, step, (int)(row % 8) * 4 + t, v);
        float factor = d[(i64)r * n_out + o];
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 8; ++j)
                if (i % 2 == (int)(row % PANEL / 8)) sums[i / 2][j] = FMA(factor, v[i][j], sums[i / 2][j]);
    }
    for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 8; ++j) {
            int k = STEP * step + 32 * i + 8 * t + j;
            if (k < n_in) y[(i64)r * n_in + k] += sums[i][j];
        }
}
#endif

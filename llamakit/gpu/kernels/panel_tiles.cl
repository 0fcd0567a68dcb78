// Products of many rows with weights in panels, by groups of GROUP_MATMUL items. A part is `n_part` rows of the tensor from
// row `first` on, of which the first is the first of a panel. Each item unpacks what a place has in a step, for its group.
// MANY, FEW_BACK: rows of activations of a tile of `panel_product` and of `panel_back`.
#define PAIR (2 * PANEL)

// y[r, o] = x[r] . w[o] (+ bias[o]): a group makes 64 rows for the rows of two panels, an item 8 by 4 of them.
KERNEL void panel_product(BUF(const u8, w), BUF(const float, x), BUF(const float, bias), BUF(float, y), const int first,
                          const int n_part, const int n_row, const int n_out, const int n_in, const int has_bias) {
    USE(const u8, w);
    USE(const float, x);
    USE(const float, bias);
    USE(float, y);
    SHARED float left[32 * (MANY + 1)], right[32 * (PAIR + 1)];
    int n_tile = (n_row + MANY - 1) / MANY, r0 = GROUP % n_tile * MANY, o0 = GROUP / n_tile * PAIR;
    int place = ITEM % PLACES, in = ITEM / PLACES * PANEL + place / 4, there = o0 + ITEM / PLACES * PANEL < n_part;
    GLOBAL const u8 *panel = w + (there ? o0 / PANEL + ITEM / PLACES : 0) * panel_size(n_in);
    int row = ITEM / 8, column = ITEM % 8;
    float sums[8][4], v[4][8];
    for (int i = 0; i < 32; ++i) sums[i / 4][i % 4] = v[i / 8][i % 8] = 0.0f;
    for (int step = 0; step < steps_of(n_in); ++step) {
        if (there) place_values(panel, n_in, step, place, v);
        for (int block = 0; block < 2; ++block) {
            for (int j = 0; j < 8; ++j) {
                int at = (place % 4 * 8 + j) * (PAIR + 1) + in;
                right[at] = v[2 * block][j];
                right[at + 8] = v[2 * block + 1][j];
            }
            for (int at = ITEM; at < 32 * MANY; at += GROUP_MATMUL) {
                int k = STEP * step + 32 * block + at % 32, r = r0 + at / 32;
                left[at % 32 * (MANY + 1) + at / 32] = r < n_row && k < n_in ? x[(i64)r * n_in + k] : 0.0f;
            }
            BARRIER;
            for (int k = 0; k < 32; ++k) {
                LOCAL const float *a = left + k * (MANY + 1) + 8 * row, *b = right + k * (PAIR + 1) + 4 * column;
                for (int i = 0; i < 8; ++i)
                    for (int j = 0; j < 4; ++j) sums[i][j] = FMA(a[i], b[j], sums[i][j]);
            }
            BARRIER;
        }
    }
    for (int i = 0; i < 8; ++i)
        for (int j = 0; j < 4; ++j) {
            int r = r0 + 8 * row + i, o = o0 + 4 * column + j;
            if (r < n_row && o < n_part)
                y[(i64)r * n_out + first + o] = sums[i][j] + (has_bias ? bias[first + o] : 0.0f);
        }
}

// y[r] = d[r] W (+ what is there), for the rows of W of this part: a group makes 32 rows for a step, an item 4 by 8.
KERNEL void panel_back(BUF(const u8, w), BUF(const float, d), BUF(float, y), const int first, const int n_part,
                       const int n_row, const int n_out, const int n_in, const int add) {
    USE(const u8, w);
    USE(const float, d);
    USE(float, y);
    SHARED float left[PAIR * (FEW_BACK + 1)], right[PAIR * (STEP + 1)];
    int n_tile = (n_row + FEW_BACK - 1) / FEW_BACK, r0 = GROUP % n_tile * FEW_BACK, step = GROUP / n_tile;
    int place = ITEM % PLACES, in = ITEM / PLACES * PANEL + place / 4, row = ITEM / 8, column = ITEM % 8;
    i64 size = panel_size(n_in);
    float sums[4][8], v[4][8];
    for (int i = 0; i < 32; ++i) sums[i / 8][i % 8] = 0.0f;
    for (int o0 = 0; o0 < n_part; o0 += PAIR) {
        for (int i = 0; i < 32; ++i) v[i / 8][i % 8] = 0.0f;
        int panel = o0 / PANEL + ITEM / PLACES;
        if (panel * PANEL < n_part) place_values(w + panel * size, n_in, step, place, v);
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 8; ++j) right[(in + i % 2 * 8) * (STEP + 1) + i / 2 * 32 + place % 4 * 8 + j] = v[i][j];
        for (int at = ITEM; at < PAIR * FEW_BACK; at += GROUP_MATMUL) {
            int o = o0 + at % PAIR, r = r0 + at / PAIR;
            left[at % PAIR * (FEW_BACK + 1) + at / PAIR] = r < n_row && o < n_part ? d[(i64)r * n_out + first + o] : 0.0f;
        }
        BARRIER;
        for (int o = 0; o < PAIR; ++o) {
            LOCAL const float *a = left + o * (FEW_BACK + 1) + 4 * row, *b = right + o * (STEP + 1) + column;
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 8; ++j) sums[i][j] = FMA(a[i], b[8 * j], sums[i][j]);
        }
        BARRIER;
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 8; ++j) {
            int r = r0 + 4 * row + i, k = STEP * step + column + 8 * j;
            if (r < n_row && k < n_in) y[(i64)r * n_in + k] = sums[i][j] + (add ? y[(i64)r * n_in + k] : 0.0f);
        }
}

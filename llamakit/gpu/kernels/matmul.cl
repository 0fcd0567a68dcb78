// c[i, j] = sum over k of a(i, k) b(k, j) (+ bias[j], + what c holds), for operands that lie in any way: `a_row` and
// `a_col` are the steps of i and k in a, `b_row` and `b_col` those of k and j in b, `c_row` that of i in c. A group
// makes a tile of 32 by 32, an item 4 by 4 of it.
#define SIDE 32
#define DEPTH 16

KERNEL void matmul(BUF(const float, a), BUF(const float, b), BUF(const float, bias), BUF(float, c), const int m,
                   const int n, const int k, const int a_row, const int a_col, const int b_row, const int b_col,
                   const int c_row, const int has_bias, const int add) {
    USE(const float, a);
    USE(const float, b);
    USE(const float, bias);
    USE(float, c);
    SHARED float left[DEPTH][SIDE], right[DEPTH][SIDE];
    int n_tile = (n + SIDE - 1) / SIDE;
    int i0 = GROUP / n_tile * SIDE, j0 = GROUP % n_tile * SIDE, row = ITEM / 8, column = ITEM % 8;
    float sums[4][4];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
        for (int at = ITEM; at < SIDE * DEPTH; at += 64) {
            int kk = at / SIDE, i = at % SIDE;
            int inside = k0 + kk < k;
            left[kk][i] = inside && i0 + i < m ? a[(i64)(i0 + i) * a_row + (i64)(k0 + kk) * a_col] : 0.0f;
            right[kk][i] = inside && j0 + i < n ? b[(i64)(k0 + kk) * b_row + (i64)(j0 + i) * b_col] : 0.0f;
        }
        BARRIER;
        for (int kk = 0; kk < DEPTH; ++kk)
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j)
                    sums[i][j] = FMA(left[kk][4 * row + i], right[kk][4 * column + j], sums[i][j]);
        BARRIER;
    }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            int y = i0 + 4 * row + i, x = j0 + 4 * column + j;
            if (y >= m || x >= n) continue;
            i64 at = (i64)y * c_row + x;
            c[at] = sums[i][j] + (has_bias ? bias[x] : 0.0f) + (add ? c[at] : 0.0f);
        }
}

// c[i, j] = sum over k of a(i, k) b(k, j) (+ bias[j], + what c holds), for operands that lie in any way: `a_row` and
// `a_col` are the steps of i and k in a, `b_row` and `b_col` those of k and j in b, `c_row` that of i in c. A group
// makes a tile of SIDE by SIDE.

FN void put(GLOBAL float *c, i64 at, float sum, GLOBAL const float *bias, int x, int has_bias, int add) {
    c[at] = sum + (has_bias ? bias[x] : 0.0f) + (add ? c[at] : 0.0f);
}

#if LANES > 1
// An item makes 4 by 4 of the tile; operands pass through shared memory.
#define DEPTH 16
#else
// An item makes the whole tile, 4 by 4 (rows that lie along k) or 4 by 16 (else) at a time, in registers.
#define WIDE 16

// 4 by 4 of dot products of rows.
FN void dots(GLOBAL const float *a, GLOBAL const float *b, int m, int n, int k, i64 a_row, i64 b_col, float *out) {
    float sums[4][4][8];
    GLOBAL const float *x[4], *y[4];
    for (int i = 0; i < 4; ++i) {
        x[i] = a + (i < m ? i : m - 1) * a_row;
        y[i] = b + (i < n ? i : n - 1) * b_col;
        for (int j = 0; j < 4; ++j)
            for (int l = 0; l < 8; ++l) sums[i][j][l] = 0.0f;
    }
    int k0 = 0;
    for (; k0 + 8 <= k; k0 += 8)
        for (int i = 0; i < 4; ++i)
            for (int j = 0; j < 4; ++j)
                for (int l = 0; l < 8; ++l) sums[i][j][l] = FMA(x[i][k0 + l], y[j][k0 + l], sums[i][j][l]);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) {
            float sum = 0.0f;
            for (int l = 0; l < 8; ++l) sum += sums[i][j][l];
            for (int l = k0; l < k; ++l) sum = FMA(x[i][l], y[j][l], sum);
            out[WIDE * i + j] = sum;
        }
}

// 4 by 16 of products with rows of b that lie along j.
FN void outers(GLOBAL const float *a, GLOBAL const float *b, int m, int k, i64 a_row, i64 a_col, i64 b_row, float *out) {
    float sums[4][WIDE];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < WIDE; ++j) sums[i][j] = 0.0f;
    GLOBAL const float *x[4];
    for (int i = 0; i < 4; ++i) x[i] = a + (i < m ? i : m - 1) * a_row;
    for (int l = 0; l < k; ++l, b += b_row)
        for (int i = 0; i < 4; ++i) {
            float factor = x[i][l * a_col];
            for (int j = 0; j < WIDE; ++j) sums[i][j] = FMA(factor, b[j], sums[i][j]);
        }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < WIDE; ++j) out[WIDE * i + j] = sums[i][j];
}

// However they lie.
FN void any(GLOBAL const float *a, GLOBAL const float *b, int m, int n, int k, i64 a_row, i64 a_col, i64 b_row,
            i64 b_col, float *out) {
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            float sum = 0.0f;
            for (int l = 0; l < k; ++l) sum = FMA(a[i * a_row + l * a_col], b[l * b_row + j * b_col], sum);
            out[WIDE * i + j] = sum;
        }
}
#endif

KERNEL void matmul(BUF(const float, a), BUF(const float, b), BUF(const float, bias), BUF(float, c), const int m,
                   const int n, const int k, const int a_row, const int a_col, const int b_row, const int b_col,
                   const int c_row, const int has_bias, const int add) {
    USE(const float, a);
    USE(const float, b);
    USE(const float, bias);
    USE(float, c);
    int n_tile = (n + SIDE - 1) / SIDE;
#if LANES > 1
    SHARED float left[DEPTH][SIDE], right[DEPTH][SIDE];
    int i0 = GROUP / n_tile * SIDE, j0 = GROUP % n_tile * SIDE, row = ITEM / 8, column = ITEM % 8;
    float sums[4][4];
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) sums[i][j] = 0.0f;
    for (int k0 = 0; k0 < k; k0 += DEPTH) {
        for (int at = ITEM; at < SIDE * DEPTH; at += GROUP_MATMUL) {
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
            if (y < m && x < n) put(c, (i64)y * c_row + x, sums[i][j], bias, x, has_bias, add);
        }
#else
    if (INDEX >= (i64)((m + SIDE - 1) / SIDE) * n_tile) return;
    int i0 = (int)(INDEX / n_tile) * SIDE, j0 = (int)(INDEX % n_tile) * SIDE;
    int i1 = i0 + SIDE < m ? i0 + SIDE : m, j1 = j0 + SIDE < n ? j0 + SIDE : n;
    int along = a_col == 1 && b_row == 1, step = along ? 4 : WIDE;
    float out[4 * WIDE];
    for (int j = j0; j < j1; j += step)
        for (int i = i0; i < i1; i += 4) {
            GLOBAL const float *x = a + (i64)i * a_row, *y = b + (i64)j * b_col;
            int rows = i1 - i < 4 ? i1 - i : 4, columns = j1 - j < step ? j1 - j : step;
            if (along)
                dots(x, y, rows, columns, k, a_row, b_col, out);
            else if (b_col == 1 && columns == WIDE)
                outers(x, y, rows, k, a_row, a_col, b_row, out);
            else
                any(x, y, rows, columns, k, a_row, a_col, b_row, b_col, out);
            for (int p = 0; p < rows; ++p)
                for (int q = 0; q < columns; ++q)
                    put(c, (i64)(i + p) * c_row + j + q, out[WIDE * p + q], bias, j + q, has_bias, add);
        }
#endif
}

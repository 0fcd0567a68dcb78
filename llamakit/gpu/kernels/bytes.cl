// Rows of bytes to places and from them: copies of cells.
KERNEL void gather_bytes(BUF(const u8, from), BUF(const int, rows), BUF(u8, to), const int n_row, const int width) {
    USE(const u8, from);
    USE(const int, rows);
    USE(u8, to);
    if (INDEX < (i64)n_row * width) to[INDEX] = from[(i64)rows[INDEX / width] * width + INDEX % width];
}

KERNEL void scatter_bytes(BUF(const u8, from), BUF(const int, rows), BUF(u8, to), const int n_row, const int width) {
    USE(const u8, from);
    USE(const int, rows);
    USE(u8, to);
    if (INDEX < (i64)n_row * width) to[(i64)rows[INDEX / width] * width + INDEX % width] = from[INDEX];
}

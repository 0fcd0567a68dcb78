// What happens to the sums of a panel before they are stored. Included by units of kernels, inside their anonymous
// namespace, after rows-inl.h.

// Outputs 16 p to 16 p + 15 of rows [row, row + tile).
LK_INLINE void emit(const LinearTask& t, const Floats* acc, const Floats* up, int64_t row, int tile, int64_t p) {
    const int64_t lanes = t.weight.n_out - p * kLanes, at = p * kLanes, n = lanes < kLanes ? lanes : kLanes;
    for (int j = 0; j < tile; ++j) {
        Floats y = acc[j];
        if (up) y = gate(y, t.gelu) * up[j];
        if (t.bias) y = y + take(t.bias + at, n);
        if (t.residual) y = take(t.residual + (row + j) * t.ld_residual + at, n) + y;
        put(t.y + (row + j) * t.ldy + at, y, n);
    }
}

// What a device does at best, to hold rates against.

// Adds up `n` floats for each item: side by side where items work together, one after the other where they are alone.
KERNEL void read_all(BUF(const float, x), BUF(float, y), const int n, const int n_item) {
    USE(const float, x);
    USE(float, y);
    if (INDEX >= n_item) return;
#if LANES > 1
    i64 step = n_item;
    x += INDEX;
#else
    i64 step = 1;
    x += INDEX * n;
#endif
    float sums[16];
    for (int i = 0; i < 16; ++i) sums[i] = 0.0f;
    for (int at = 0; at < n; at += 16)
        for (int i = 0; i < 16; ++i) sums[i] += x[(at + i) * step];
    for (int i = 1; i < 16; ++i) sums[0] += sums[i];
    y[INDEX] = sums[0];
}

// 64 sums of an item that do not wait for one another, `n` multiply-adds each.
KERNEL void multiply_adds(BUF(float, y), const int n, const int n_item, const float factor) {
    USE(float, y);
    if (INDEX >= n_item) return;
    float sums[64];
    for (int i = 0; i < 64; ++i) sums[i] = (float)i;
    for (int at = 0; at < n; ++at)
        for (int i = 0; i < 64; ++i) sums[i] = FMA(sums[i], factor, 1.0f);
    for (int i = 1; i < 64; ++i) sums[0] += sums[i];
    y[INDEX] = sums[0];
}

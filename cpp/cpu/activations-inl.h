// Rows of float32 in the form in which a kind of weight takes them. Included by units of kernels, inside their
// anonymous namespace.

// Sixteen values times `inverse`, rounded to the nearest integer (ties to even).
LK_INLINE Ints rounded(Floats x, Floats inverse) {
    const Floats magic = splat(12582912.0f);  // 1.5 * 2^23: in the sum the last bits of the mantissa are the integer
    const Floats moved = fma(x, inverse, magic);
    Ints r;
    LK_PARTS r.p[i] = (IntPart)moved.p[i] - (IntPart)magic.p[i];
    return r;
}

// The sum of sixteen signed bytes, which are made unsigned, added in pairs to sums of 16 bits, and these by a product.
LK_INLINE int32_t sum_bytes(const int32_t (&four)[4]) {
    uint64_t x[2], pairs = 0;
    __builtin_memcpy(x, four, sizeof x);
    for (int i = 0; i < 2; ++i) {
        x[i] ^= 0x8080808080808080u;
        pairs += (x[i] & 0x00ff00ff00ff00ffu) + ((x[i] >> 8) & 0x00ff00ff00ff00ffu);
    }
    return int32_t((pairs * 0x0001000100010001u) >> 48) - 16 * 128;
}

// Values to int8 with one scale, largest magnitude / 127, and the sum of each 16 of them. Four make a word; words, and
// sums, lie `stride` apart.
LK_INLINE void quantise_block(const float* x, int n, int64_t stride, int32_t* words, float* scale, int32_t* sums) {
    Floats tops = splat(0.0f);
    const Floats zero = splat(0.0f);
    for (int i = 0; i < n; i += kLanes) {
        const Floats v = load(x + i);
        tops = max(tops, max(v, zero - v));
    }
    const float top = maximum(tops);
    // A block of zeros, or one with an infinity in it, has no useful inverse.
    const bool useful = top > 1e-38f && top < 3e38f;
    *scale = useful ? top / 127.0f : top * 0.0f;
    const Floats inverse = splat(useful ? 127.0f / top : 0.0f);
    for (int i = 0; i < n; i += kLanes) {
        int32_t four[4] = {};
        if (useful) narrow(rounded(load(x + i), inverse), (int8_t*)four);
        for (int w = 0; w < 4; ++w) words[(i / 4 + w) * stride] = four[w];
        sums[i / kLanes * stride] = sum_bytes(four);
    }
}

void prepare(const float* x, int64_t ldx, int64_t row, int tile, const ActView& act) {
    const int64_t n = act.n_in;
    x += row * ldx;
    if (act.form == ActForm::f32) {
        float* out = (float*)act.values + row * n;
        for (int j = 0; j < tile; ++j)
            for (int64_t k = 0; k < n; ++k) out[k * tile + j] = x[j * ldx + k];
    } else if (act.form == ActForm::bf16 && !kPairsOfBF16) {
        float* out = (float*)act.values + row * n;
        for (int j = 0; j < tile; ++j)
            for (int64_t k = 0; k < n; ++k) out[k * tile + j] = from_bf16(to_bf16(x[j * ldx + k]));
    } else if (act.form == ActForm::bf16) {
        const int64_t pairs = (n + 1) / 2;
        uint16_t* out = (uint16_t*)act.values + row * pairs * 2;
        for (int j = 0; j < tile; ++j)
            for (int64_t k = 0; k < pairs * 2; ++k)
                out[(k / 2 * tile + j) * 2 + k % 2] = k < n ? to_bf16(x[j * ldx + k]) : 0;
    } else {
        const int size = act.form == ActForm::int8_32 ? 32 : kSuper;
        int32_t* words = (int32_t*)(act.values + row * n);
        float* scales = act.scales + row * (n / size);
        int32_t* sums = act.sums + row * (n / 16);
        for (int j = 0; j < tile; ++j)
            for (int64_t b = 0; b < n / size; ++b)
                quantise_block(x + j * ldx + b * size, size, tile, words + b * (size / 4) * tile + j,
                               scales + b * tile + j, sums + b * (size / 16) * tile + j);
    }
}

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

// Values to int8 with one scale, largest magnitude / 127; each four of them are a word, words lie `stride` apart.
LK_INLINE void quantise_block(const float* x, int n, int64_t stride, int32_t* words, float* scale) {
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
    }
}

// Sums of each 16 values of a tile of words [n/4][tile].
LK_INLINE void sum_tile(const int32_t* words, int64_t n, int tile, int32_t* sums) {
    const Ints ones = splat_int(0x01010101);
    for (int64_t i = 0; i < n / 16; ++i, words += 4 * tile, sums += tile) {
        if (tile == 8) {
            Ints s = dot_nibbles(splat_int(0), ones, load_bytes((const uint8_t*)words));
            s = dot_nibbles(s, ones, load_bytes((const uint8_t*)(words + kLanes)));
            int32_t lanes[kLanes];
            __builtin_memcpy(lanes, &s, sizeof lanes);
            for (int j = 0; j < 8; ++j) sums[j] = lanes[j] + lanes[8 + j];
            continue;
        }
        for (int j = 0; j < tile; ++j) {
            sums[j] = 0;
            for (int w = 0; w < 4; ++w) {
                int8_t four[4];
                __builtin_memcpy(four, words + w * tile + j, 4);
                sums[j] += four[0] + four[1] + four[2] + four[3];
            }
        }
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
        for (int j = 0; j < tile; ++j)
            for (int64_t b = 0; b < n / size; ++b)
                quantise_block(x + j * ldx + b * size, size, tile, words + b * (size / 4) * tile + j,
                               scales + b * tile + j);
        sum_tile(words, n, tile, act.sums + row * (n / 16));
    }
}

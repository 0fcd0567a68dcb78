// y = x W^T with int8 activations and quantised weights: sums of a block are exact integers, blocks are added in
// order along k. Every output has one accumulator, so its bits do not depend on how many rows are in the step.
// Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kIntTile = 8;
#elif defined(__aarch64__)
constexpr int kIntTile = 4;
#else
constexpr int kIntTile = 2;
#endif

// Tile: `tile` rows of x (stride ldx) to int8, a scale for each 32 values (largest magnitude / 127).
void quantise(const float* x, int64_t ldx, int tile, int64_t n, int8_t* q, float* scales, int32_t* sums) {
    for (int j = 0; j < tile; ++j) {
        const float* row = x + j * ldx;
        for (int64_t b = 0; b < n / kActBlock; ++b) {
            const float* in = row + b * kActBlock;
            const Floats x0 = load(in), x1 = load(in + kLanes), zero = splat(0.0f);
            const float top = maximum(max(max(x0, zero - x0), max(x1, zero - x1)));
            // A block of zeros, or one with an infinity in it, has no useful inverse.
            const float inverse = top > 1e-38f && top < 3e38f ? 127.0f / top : 0.0f;
            scales[b * tile + j] = inverse == 0.0f ? top * 0.0f : top / 127.0f;
            const Floats magic = splat(12582912.0f);  // rounds to the nearest integer
            float rounded[kActBlock];
            store(rounded, fma(x0, splat(inverse), magic) - magic);
            store(rounded + kLanes, fma(x1, splat(inverse), magic) - magic);
            for (int half = 0; half < 2; ++half) {
                int32_t total = 0;
                for (int i = half * 16; i < half * 16 + 16; ++i) {
                    const int32_t value = inverse == 0.0f ? 0 : int32_t(rounded[i]);
                    q[((b * 8 + i / 4) * tile + j) * 4 + i % 4] = int8_t(value);
                    total += value;
                }
                sums[(b * 2 + half) * tile + j] = total;
            }
        }
    }
}

template <bool kHalf>
LK_INLINE Floats load_scale(const uint8_t* scales, int64_t block) {
    if constexpr (kHalf) return load_half((const uint16_t*)scales + block * kLanes);
    return load((const float*)scales + block * kLanes);
}

// What depends on the activations alone: corrections for the bias and the sums that mins multiply.
struct Prologue {
    int32_t* start;  // [n_in/block][tile]: -bias * sum
    float* sums;     // [n_in/block][tile]: scale * sum
};

template <bool kWide, int kBlock, bool kHalf, bool kMin, int kTile>
void int_panel(const WeightView& w, const uint8_t* panel, const int8_t* a, const float* scales, Prologue pre,
               Floats* acc_out) {
    Floats acc[kTile];
    for (int j = 0; j < kTile; ++j) acc[j] = splat(0.0f);
    const uint8_t* u = panel;
    for (int64_t b = 0; b < w.n_in / kBlock; ++b) {
        Ints s[kTile];
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j) s[j] = splat_int(pre.start[b * kTile + j]);
        if constexpr (kWide) {
#pragma GCC unroll 8
            for (int g = 0; g < kBlock / 4; ++g) {
                const Ints x = load_bytes(u + 64 * g);
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j) s[j] = dot_bytes(s[j], x, splat_bytes(a + 4 * (g * kTile + j)));
            }
            u += 16 * kBlock;
        } else {
#pragma GCC unroll 4
            for (int g = 0; g < kBlock / 8; ++g) {
                Ints low = load_bytes(u + 64 * g), high = low;
                LK_PARTS {
                    low.p[i] &= 0x0f0f0f0f;
                    high.p[i] = (high.p[i] >> 4) & 0x0f0f0f0f;
                }
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j) s[j] = dot_nibbles(s[j], low, splat_bytes(a + 4 * (2 * g * kTile + j)));
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j)
                    s[j] = dot_nibbles(s[j], high, splat_bytes(a + 4 * ((2 * g + 1) * kTile + j)));
            }
            u += 8 * kBlock;
        }
        a += kBlock * kTile;
        const Floats d = load_scale<kHalf>(panel + w.scale_offset, b);
        const float* act = scales + b * kBlock / kActBlock * kTile;
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j) acc[j] = fma(d * splat(act[j]), to_floats(s[j]), acc[j]);
        if constexpr (kMin) {
            const Floats m = load_scale<kHalf>(panel + w.min_offset, b);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) acc[j] = fma(m, splat(pre.sums[b * kTile + j]), acc[j]);
        }
    }
    for (int j = 0; j < kTile; ++j) acc_out[j] = acc[j];
}

typedef void (*IntPanel)(const WeightView&, const uint8_t*, const int8_t*, const float*, Prologue, Floats*);

template <int kTile>
IntPanel int_panel_for(const PanelFormat& f) {
    if (f.block == 16) {
        if (f.wide) return f.has_min ? nullptr : int_panel<true, 16, false, false, kTile>;
        return f.has_min ? int_panel<false, 16, false, true, kTile> : int_panel<false, 16, false, false, kTile>;
    }
    if (f.half_scale) {
        if (f.wide) return f.has_min ? int_panel<true, 32, true, true, kTile> : int_panel<true, 32, true, false, kTile>;
        return f.has_min ? int_panel<false, 32, true, true, kTile> : int_panel<false, 32, true, false, kTile>;
    }
    if (f.wide) return f.has_min ? int_panel<true, 32, false, true, kTile> : int_panel<true, 32, false, false, kTile>;
    return f.has_min ? int_panel<false, 32, false, true, kTile> : nullptr;
}
LK_INLINE IntPanel int_panel_of(const PanelFormat& f, int tile) {
    if (tile == 1) return int_panel_for<1>(f);
    if (tile == 2) return int_panel_for<2>(f);
    if (tile == 4) return int_panel_for<4>(f);
    return int_panel_for<8>(f);
}

LK_INLINE void make_prologue(const WeightView& w, const float* scales, const int32_t* sums, int tile, Prologue pre) {
    const int per_block = w.format.block / 16, per_scale = kActBlock / w.format.block;
    for (int64_t b = 0; b < w.n_in / w.format.block; ++b) {
        for (int j = 0; j < tile; ++j) {
            int32_t total = 0;
            for (int i = 0; i < per_block; ++i) total += sums[(b * per_block + i) * tile + j];
            pre.start[b * tile + j] = -w.format.bias * total;
            pre.sums[b * tile + j] = scales[b / per_scale * tile + j] * float(total);
        }
    }
}

void linear_int(const WeightView& w, const ActView& x, int64_t begin, int64_t end, float* y, int64_t ldy,
                uint8_t* scratch) {
    const Prologue pre = {(int32_t*)scratch, (float*)scratch + w.n_in / 16 * kIntTile};
    for (int64_t row = 0; row < x.n_rows;) {
        const int tile = tile_at(x.n_rows - row, kIntTile);
        const int8_t* a = x.values + row * x.n_in;
        const float* scales = x.scales + row * (x.n_in / kActBlock);
        make_prologue(w, scales, x.sums + row * (x.n_in / 16), tile, pre);
        const IntPanel kernel = int_panel_of(w.format, tile);
        for (int64_t p = begin; p < end; ++p) {
            Floats acc[kIntTile];
            kernel(w, w.data + p * w.panel_bytes, a, scales, pre, acc);
            const int64_t lanes = w.n_out - p * kLanes;
            for (int j = 0; j < tile; ++j) {
                float* out = y + (row + j) * ldy + p * kLanes;
                if (lanes >= kLanes)
                    store(out, acc[j]);
                else
                    store_some(out, acc[j], lanes);
            }
        }
        row += tile;
    }
}

// y = x W^T with int8 activations and quantised weights: sums of a block are exact integers, blocks are added in
// order along k. Every output has one accumulator, so its bits do not depend on how many rows are in the step.
// Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kIntTile = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kIntTile = 4;
#else
constexpr int kIntTile = 2;
#endif

// A kernel is as fast as its weights arrive: ask for them early, beyond the end of the page too. How early, and into
// which cache, is what measured best; minima beside the scales need it most.
template <PanelFormat F, int kTile>
LK_INLINE void fetch_ahead(const uint8_t* u, int n) {
    constexpr int kAhead = kTile > 2 ? 2048 : F.has_min && !F.nested ? 6144 : 1024;
    constexpr int kCache = kTile > 2 ? 3 : 2;
    for (int i = 0; i < n; i += 64) __builtin_prefetch(u + kAhead + i, 0, kCache);
}

template <PanelFormat F, int kTile>
LK_INLINE void dots(Ints (&s)[kTile], Ints codes, const int8_t* a) {
    if constexpr (F.table == 1) codes = lookup(codes, kTables[1]);
    if constexpr (F.table == 2) codes = lookup(codes, kTables[2]);
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j) {
        const Ints x = splat_bytes(a + 4 * j);
        s[j] = F.codes == Codes::byte || F.table == 1 ? dot_bytes(s[j], codes, x) : dot_nibbles(s[j], codes, x);
    }
}

// Adds the products of one block. `u` are the codes of the 32 values in which the block lies, `half` which 16 of them.
template <PanelFormat F, int kTile>
LK_INLINE void block_dots(Ints (&s)[kTile], const uint8_t* u, int half, const int8_t* a) {
    constexpr int kGroups = F.block / 4;
    if constexpr (F.codes == Codes::byte) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) dots<F>(s, load_bytes(u + kPlane * g), a + 4 * g * kTile);
    } else if constexpr (F.codes == Codes::pair || F.codes == Codes::pair_bit) {
        const Ints low = load_bytes(u + kPlane * (F.codes == Codes::pair ? half : 1 + half));
        const Ints high = F.codes == Codes::pair ? low : load_bytes(u);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
            Ints x = shifted(low, -2 * g, 0x03030303);
            if (F.codes == Codes::pair_bit) x = x | shifted(high, 2 - g - 4 * half, 0x04040404);
            dots<F>(s, x, a + 4 * g * kTile);
        }
    } else {
        constexpr int kUpper = F.codes == Codes::nibble ? 0 : 1, kPlanes = kGroups / 2;
        const uint8_t* planes = u + (F.block == 16 ? half * 3 * kPlane : 0);
        const Ints upper = load_bytes(planes);
#pragma GCC unroll 4
        for (int i = 0; i < kPlanes; ++i) {
            const Ints both = load_bytes(planes + kPlane * (kUpper + i));
            Ints low = shifted(both, 0, 0x0f0f0f0f), high = shifted(both, -4, 0x0f0f0f0f);
            if constexpr (F.codes == Codes::nibble_bit) {
                low = low | shifted(upper, 4 - i, 0x10101010);
                high = high | shifted(upper, 4 - i - kPlanes, 0x10101010);
            }
            if constexpr (F.codes == Codes::nibble_pair) {
                low = low | shifted(upper, 4 - 2 * i, 0x30303030);
                high = high | shifted(upper, 4 - 2 * (i + kPlanes), 0x30303030);
            }
            dots<F>(s, low, a + 4 * i * kTile);
            dots<F>(s, high, a + 4 * (i + kPlanes) * kTile);
        }
    }
}

template <PanelFormat F>
LK_INLINE Floats block_scale(const uint8_t* scales, int block) {
    if constexpr (F.wide_scale) return load((const float*)scales + block * kLanes);
    return load_half((const uint16_t*)scales + block * kLanes);
}

// One panel for one tile, scales nested: sums of 256 values first, then times the activations' scale.
template <PanelFormat F, int kTile>
LK_INLINE void nested_panel(const uint8_t* w, int64_t n_in, const int8_t* a, const float* scales, const int32_t* start,
                            Floats* out) {
    constexpr int kBlocks = kSuper / F.block;
    for (int j = 0; j < kTile; ++j) store((float*)(out + j), splat(0.0f));
    for (int64_t i = 0; i < n_in; i += kSuper) {
        Floats total[kTile];
        for (int j = 0; j < kTile; ++j) total[j] = splat(0.0f);
        if constexpr (F.has_min) {
            const uint8_t* minima = w + 64 + kBlocks * kLanes;
            Ints s[kTile];
            for (int j = 0; j < kTile; ++j) s[j] = splat_int(0);
#pragma GCC unroll 8
            for (int b = 0; b < kBlocks / 2; ++b) {
                const Ints pairs = widen_bytes(minima + 2 * kLanes * b);
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j) s[j] = dot_pairs(s[j], pairs, splat_int(start[b * kTile + j]));
            }
            const Floats d = splat(0.0f) - load_half((const uint16_t*)w + kLanes);
            for (int j = 0; j < kTile; ++j) total[j] = d * to_floats(s[j]);
            start += kBlocks / 2 * kTile;
        }
        const Floats d = load_half((const uint16_t*)w);
        const uint8_t *sc = w + 64, *u = w + scale_bytes(F, kBlocks);
        fetch_ahead<F, kTile>(w, scale_bytes(F, kBlocks));
#pragma GCC unroll 1
        for (int b = 0; b < kBlocks; b += 32 / F.block) {
#pragma GCC unroll 2
            for (int half = 0; half < 32 / F.block; ++half) {
                Ints s[kTile];
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j)
                    s[j] = F.has_min ? splat_int(0) : splat_bytes((const int8_t*)(start + j));
                if constexpr (!F.has_min) start += kTile;
                if (half == 0) fetch_ahead<F, kTile>(u, code_bytes(F.codes));
                block_dots<F>(s, u, half, a);
                const Floats scale = d * bytes_to_floats((const int8_t*)sc);
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j) total[j] = fma(scale, to_floats(s[j]), total[j]);
                sc += kLanes, a += F.block * kTile;
            }
            u += code_bytes(F.codes);
        }
        w = u;
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j)
            store((float*)(out + j), fma(splat(scales[j]), total[j], load((const float*)(out + j))));
        scales += kTile;
    }
}

// One panel for one tile, a scale for each block of weights and of activations.
template <PanelFormat F, int kTile>
LK_INLINE void plain_panel(const uint8_t* w, int64_t n_in, const int8_t* a, const float* scales, const int32_t* start,
                           Floats* out) {
    Floats acc[kTile];
    for (int j = 0; j < kTile; ++j) acc[j] = splat(0.0f);
    for (int64_t i = 0; i < n_in; i += kSuper) {
        const int n_block = n_in - i < kSuper ? int(n_in - i) / F.block : kSuper / F.block;
        const uint8_t* u = w + scale_bytes(F, n_block);
        fetch_ahead<F, kTile>(w, scale_bytes(F, n_block));
#pragma GCC unroll 1
        for (int b = 0; b < n_block; ++b) {
            Ints s[kTile];
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) s[j] = F.has_min ? splat_int(0) : splat_bytes((const int8_t*)(start + j));
            if constexpr (!F.has_min) start += kTile;
            fetch_ahead<F, kTile>(u, code_bytes(F.codes));
            block_dots<F>(s, u, 0, a);
            const Floats d = block_scale<F>(w, b);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) acc[j] = fma(d * splat(scales[j]), to_floats(s[j]), acc[j]);
            if constexpr (F.has_min) {
                const Floats m = block_scale<F>(w, n_block + b);
#pragma GCC unroll 8
                for (int j = 0; j < kTile; ++j) acc[j] = fma(m, splat(((const float*)start)[j]), acc[j]);
                start += kTile;
            }
            scales += kTile, a += F.block * kTile, u += code_bytes(F.codes);
        }
        w = u;
    }
    for (int j = 0; j < kTile; ++j) out[j] = acc[j];
}

using IntPanel = void (*)(const uint8_t*, int64_t, const int8_t*, const float*, const int32_t*, Floats*);

template <int kPacking, int kTile>
void int_panel(const uint8_t* w, int64_t n_in, const int8_t* a, const float* scales, const int32_t* start,
               Floats* out) {
    constexpr PanelFormat F = kFormats[kPacking];
    if constexpr (F.nested)
        nested_panel<F, kTile>(w, n_in, a, scales, start, out);
    else
        plain_panel<F, kTile>(w, n_in, a, scales, start, out);
}

struct IntPanels {
    IntPanel of[kPackings][kIntTile];
};

constexpr IntPanels int_panels() {
    IntPanels made{};
    each_number<kPackings>([&]<int kPacking>() {
        each_number<kIntTile>([&]<int kAt>() { made.of[kPacking][kAt] = int_panel<kPacking, kAt + 1>; });
    });
    return made;
}

constexpr IntPanels kIntPanels = int_panels();

void start_sums(Packing packing, const ActView& act, int64_t row, int tile, int32_t* starts) {
    const PanelFormat f = kFormats[int(packing)];
    const int64_t n_block = act.n_in / f.block;
    const int32_t* sums = act.sums + row * (act.n_in / 16);
    const float* scales = act.scales + row * (act.n_in / (f.nested ? kSuper : 32));
    starts += row * (act.n_in / 16);
    if (f.nested && f.has_min) {
        const int per_sum = f.block / 16;  // sums are of 16 values
        for (int64_t pair = 0; pair < n_block / 2; ++pair)
            for (int j = 0; j < tile; ++j) {
                int32_t total[2] = {0, 0};
                for (int half = 0; half < 2; ++half)
                    for (int i = 0; i < per_sum; ++i) total[half] += sums[((pair * 2 + half) * per_sum + i) * tile + j];
                starts[pair * tile + j] = int32_t((uint32_t(total[1]) << 16) | (uint32_t(total[0]) & 0xffff));
            }
    } else if (f.block == 16) {
        for (int64_t i = 0; i < n_block * tile; ++i) starts[i] = -f.bias * sums[i];
    } else {
        for (int64_t b = 0; b < n_block; ++b)
            for (int j = 0; j < tile; ++j) {
                const int32_t total = sums[2 * b * tile + j] + sums[(2 * b + 1) * tile + j];
                if (f.has_min)
                    ((float*)starts)[b * tile + j] = scales[b * tile + j] * float(total);
                else
                    starts[b * tile + j] = -f.bias * total;
            }
    }
}

// Rows whose activations stay in the cache while all panels pass by.
LK_INLINE int64_t rows_of_block(int64_t n_in) {
    const int64_t fit = (int64_t(384) << 10) / n_in / kIntTile * kIntTile;
    return fit < kIntTile ? kIntTile : fit > 64 ? 64 : fit;
}

constexpr int kGatePanels = 8;

// Rows [from, to), `from` at a tile, of panels [begin, end).
void linear_int(const LinearTask& t, int64_t from, int64_t to, int64_t begin, int64_t end) {
    const int packing = int(t.weight.packing);
    const int64_t n_in = t.weight.n_in, per_block = n_in / (kFormats[packing].nested ? kSuper : 32);
    const int64_t step = rows_of_block(n_in);
    for (int64_t first = from; first < to; first += step) {
        const int64_t last = to - first < step ? to : first + step;
        // With few rows a stream of weights is not left before its end: first some panels of the gate, then those of
        // up.
        const int64_t together = t.up && last - first <= kIntTile ? kGatePanels : 1;
        for (int64_t p = begin; p < end; p += together) {
            const int64_t n = end - p < together ? end - p : together;
            for (int64_t row = first; row < last; row += kIntTile) {
                const int tile = tile_at(t.x.n_rows - row, kIntTile);
                const IntPanel kernel = kIntPanels.of[packing][tile - 1];
                const int32_t* starts = t.starts + row * (n_in / 16);
                const int8_t* a = (const int8_t*)t.x.values + row * n_in;
                const float* scales = t.x.scales + row * per_block;
                Floats acc[kGatePanels][kIntTile], up[kIntTile];
                for (int64_t i = 0; i < n; ++i)
                    kernel(t.weight.data + (p + i) * t.weight.panel_bytes, n_in, a, scales, starts, acc[i]);
                for (int64_t i = 0; i < n; ++i) {
                    if (t.up) kernel(t.up->data + (p + i) * t.up->panel_bytes, n_in, a, scales, starts, up);
                    emit(t, acc[i], t.up ? up : nullptr, row, tile, p + i);
                }
            }
        }
    }
}

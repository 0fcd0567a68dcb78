// y = x W^T with int8 activations and quantised weights: sums of a block are exact integers, blocks are added in
// order along k. Every output has one accumulator, so its bits do not depend on how many rows are in the step.
// Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kIntTile = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kIntTile = 6;
#else
constexpr int kIntTile = 2;
#endif

// A kernel is as fast as its weights arrive: ask for them early, beyond the end of the page too. How early, and into
// which cache, is what measured best; minima beside the scales need it most.
template <PanelFormat F, int kTile>
LK_INLINE void fetch_ahead(const uint8_t* u, int n) {
    constexpr int kAhead = kTile > 2 ? 2048 : kParts > 1 ? 1536 : F.has_min && !F.nested ? 6144 : 1024;
    constexpr int kCache = kTile > 2 || kParts > 1 ? 3 : 2;
    for (int i = 0; i < n; i += 64) __builtin_prefetch(u + kAhead + i, 0, kCache);
}

// Parts of the lanes that are worked on at once, so that the sums of a tile fit the registers (ARM has 32 of them).
constexpr int parts_at_once(int tile) {
    return kParts > 1 && (tile <= 2 || LK_SIGNED_PRODUCTS) ? 2 : 1;
}

// Codes of eight bits are multiplied as signed bytes where bytes with a bias would not do. With short sums one of the
// factors must be unsigned, and it is the magnitude of the weight.
constexpr bool signed_codes(PanelFormat f) {
    return (LK_SHORT_SUMS || LK_SIGNED_PRODUCTS) && (f.codes == Codes::byte || f.table == 1);
}

// What the sums of a block begin with, times the sum of the activations.
constexpr int start_bias(PanelFormat f) {
    return signed_codes(f) ? 0 : f.bias;
}

// Groups of a block whose sums of pairs fit 16 bits together.
constexpr int short_run(PanelFormat f) {
    const int most = f.codes == Codes::byte || f.table == 1 ? 128
                     : f.table == 2                         ? 24
                     : f.table != 0                         ? kTables[f.table][f.codes == Codes::nibble ? 15 : 5]
                     : f.codes == Codes::nibble             ? 15
                     : f.codes == Codes::nibble_bit         ? 31
                     : f.codes == Codes::nibble_pair        ? 63
                                                            : 7;
    const int run = 32767 / (2 * 127 * most);
    return run >= 8 ? 8 : run >= 4 ? 4 : run >= 2 ? 2 : 1;
}

// The sums of one block for a tile of rows.
template <PanelFormat F, int kTile>
struct BlockSums {
    static constexpr int P = parts_at_once(kTile);
    IntsOf<P> s[kTile];
#if LK_SHORT_SUMS
    ShortPart pairs[kTile][P];
#elif LK_SQUARES
    IntPart squares[kTile / 2 + 1][P][2];  // of two tokens each
    IntsOf<P> codes;                       // of the group before
    const int8_t* a;
#endif
};

// Adds the products of a group, the n-th of its block.
template <PanelFormat F, int kTile, int P>
LK_INLINE void dots(BlockSums<F, kTile>& sums, int n, IntsOf<P> codes, const int8_t* a) {
    if constexpr (F.table != 0 && !signed_codes(F)) codes = lookup(codes, kTables[F.table]);
    if constexpr (F.table != 0 && signed_codes(F)) codes = lookup(codes, lk::formats::kIQ4);
    if constexpr (signed_codes(F) && F.codes == Codes::byte) LK_EACH(P) codes.p[i] ^= (int32_t)0x80808080;
#if LK_SHORT_SUMS
    constexpr int kRun = short_run(F);
    const IntsOf<P> magnitude = signed_codes(F) ? magnitudes(codes) : codes;
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j) {
        const IntsOf<P> x = splat_bytes<P>(a + 4 * j), y = signed_codes(F) ? with_sign(x, codes) : x;
        LK_EACH(P) {
            const ShortPart found = pair_sums(magnitude.p[i], y.p[i]);
            ShortPart& pairs = sums.pairs[j][i];
            pairs = n % kRun == 0 ? found : pairs + found;
            finish(pairs);
            if (n % kRun != kRun - 1 && n != F.block / 4 - 1) continue;
            sums.s[j].p[i] += widened(pairs);
            finish(sums.s[j].p[i]);
        }
    }
#else
    int alone = 0;  // the first token that is multiplied by itself
#if LK_SQUARES
    alone = kTile / 2 * 2;
    const int n_square = n % 2 == 1 ? kTile / 2 : 0;
#pragma GCC unroll 4
    for (int j = 0; j < n_square; ++j) {
        const int32x2x2_t tokens =
            vzip_s32(vld1_s32((const int32_t*)sums.a + 2 * j), vld1_s32((const int32_t*)a + 2 * j));
        const int32x4_t x = vcombine_s32(tokens.val[0], tokens.val[1]);
        LK_EACH(P) {
            IntPart(&square)[2] = sums.squares[j][i];
            if (n == 1) square[0] = square[1] = IntPart{};
            add_square(square, sums.codes.p[i], codes.p[i], x);
            if (n != F.block / 4 - 1) continue;
            sums.s[2 * j].p[i] += (IntPart)vuzp1q_s32((int32x4_t)square[0], (int32x4_t)square[1]);
            sums.s[2 * j + 1].p[i] += (IntPart)vuzp2q_s32((int32x4_t)square[0], (int32x4_t)square[1]);
        }
    }
    sums.codes = codes, sums.a = a;
#endif
#pragma GCC unroll 8
    for (int j = alone; j < kTile; ++j) {
        const IntsOf<P> x = splat_bytes<P>(a + 4 * j);
        constexpr bool kWide = (F.codes == Codes::byte || F.table == 1) && !signed_codes(F);
        sums.s[j] = kWide ? dot_bytes(sums.s[j], codes, x) : dot_nibbles(sums.s[j], codes, x);
    }
#endif
}

// Adds the products of one block. `u` are the codes of the 32 values in which the block lies, at the part of the lanes;
// `half`: which 16 of them.
template <PanelFormat F, int kTile>
LK_INLINE void block_dots(BlockSums<F, kTile>& s, const uint8_t* u, int half, const int8_t* a) {
    constexpr int kGroups = F.block / 4, P = parts_at_once(kTile);
    if constexpr (F.codes == Codes::byte) {
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) dots(s, g, load_bytes<P>(u + kPlane * g), a + 4 * g * kTile);
    } else if constexpr (F.codes == Codes::pair || F.codes == Codes::pair_bit) {
        const IntsOf<P> low = load_bytes<P>(u + kPlane * (F.codes == Codes::pair ? half : 1 + half));
        const IntsOf<P> high = F.codes == Codes::pair ? low : load_bytes<P>(u);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
            IntsOf<P> x = shifted(low, -2 * g, 0x03030303);
            if (F.codes == Codes::pair_bit) x = x | shifted(high, 2 - g - 4 * half, 0x04040404);
            dots(s, g, x, a + 4 * g * kTile);
        }
    } else {
        constexpr int kUpper = F.codes == Codes::nibble ? 0 : 1, kPlanes = kGroups / 2;
        const uint8_t* planes = u + (F.block == 16 ? half * 3 * kPlane : 0);
        const IntsOf<P> upper = load_bytes<P>(planes);
#pragma GCC unroll 4
        for (int i = 0; i < kPlanes; ++i) {
            const IntsOf<P> both = load_bytes<P>(planes + kPlane * (kUpper + i));
            IntsOf<P> low = shifted(both, 0, 0x0f0f0f0f), high = shifted(both, -4, 0x0f0f0f0f);
            if constexpr (F.codes == Codes::nibble_bit) {
                low = low | shifted(upper, 4 - i, 0x10101010);
                high = high | shifted(upper, 4 - i - kPlanes, 0x10101010);
            }
            if constexpr (F.codes == Codes::nibble_pair) {
                low = low | shifted(upper, 4 - 2 * i, 0x30303030);
                high = high | shifted(upper, 4 - 2 * (i + kPlanes), 0x30303030);
            }
            dots(s, 2 * i, low, a + 4 * i * kTile);
            dots(s, 2 * i + 1, high, a + 4 * (i + kPlanes) * kTile);
        }
    }
}

// Sixteen scales of a block, those of a part of the lanes.
template <PanelFormat F, int P>
LK_INLINE FloatsOf<P> block_scale(const uint8_t* scales, int block, int lane) {
    if constexpr (F.wide_scale) return load<P>((const float*)scales + block * kLanes + lane);
    return load_half<P>((const uint16_t*)scales + block * kLanes + lane);
}

// 256 values of a part of a panel for one tile, scales nested: their sums, times the activations' scale.
template <PanelFormat F, int kTile, int P>
LK_INLINE void nested_super(const uint8_t* w, int lane, const int8_t* a, const float* scales, const int32_t* start,
                            FloatsOf<P> (&acc)[kTile]) {
    constexpr int kBlocks = kSuper / F.block;
    FloatsOf<P> total[kTile];
    for (int j = 0; j < kTile; ++j) total[j] = splat<P>(0.0f);
    if constexpr (F.has_min) {
        const uint8_t* minima = w + 64 + kBlocks * kLanes + 2 * lane;
        IntsOf<P> s[kTile];
        for (int j = 0; j < kTile; ++j) s[j] = splat_int<P>(0);
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks / 2; ++b) {
            const IntsOf<P> pairs = widen_bytes<P>(minima + 2 * kLanes * b);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) s[j] = dot_pairs(s[j], pairs, splat_int<P>(start[b * kTile + j]));
        }
        const FloatsOf<P> d = splat<P>(0.0f) - load_half<P>((const uint16_t*)w + kLanes + lane);
        for (int j = 0; j < kTile; ++j) total[j] = d * to_floats(s[j]);
    }
    FloatsOf<P> d = load_half<P>((const uint16_t*)w + lane);
    if constexpr (F.divisor > 1) d = d * splat<P>(1.0f / float(F.divisor));
    const uint8_t *sc = w + 64 + lane, *u = w + scale_bytes(F, kBlocks) + 4 * lane;
    if (lane == 0) fetch_ahead<F, kTile>(w, scale_bytes(F, kBlocks));
#pragma GCC unroll 1
    for (int b = 0; b < kBlocks; b += 32 / F.block) {
        if (lane == 0) fetch_ahead<F, kTile>(u, code_bytes(F.codes));
#pragma GCC unroll 2
        for (int half = 0; half < 32 / F.block; ++half) {
            BlockSums<F, kTile> sums;
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j)
                sums.s[j] =
                    F.has_min || start_bias(F) == 0 ? splat_int<P>(0) : splat_bytes<P>((const int8_t*)(start + j));
            if constexpr (!F.has_min) start += kTile;
            block_dots(sums, u, half, a);
            const FloatsOf<P> scale = d * bytes_to_floats<P>((const int8_t*)sc);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) total[j] = fma(scale, to_floats(sums.s[j]), total[j]);
            sc += kLanes, a += F.block * kTile;
        }
        u += code_bytes(F.codes);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kTile; ++j) acc[j] = fma(splat<P>(scales[j]), total[j], acc[j]);
}

// Up to 256 values of a part of a panel for one tile, a scale for each block of weights and of activations.
template <PanelFormat F, int kTile, int P>
LK_INLINE void plain_super(const uint8_t* w, int n_block, int lane, const int8_t* a, const float* scales,
                           const int32_t* start, FloatsOf<P> (&acc)[kTile]) {
    const uint8_t* u = w + scale_bytes(F, n_block) + 4 * lane;
    if (lane == 0) fetch_ahead<F, kTile>(w, scale_bytes(F, n_block));
#pragma GCC unroll 1
    for (int b = 0; b < n_block; ++b) {
        BlockSums<F, kTile> sums;
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j)
            sums.s[j] = F.has_min || start_bias(F) == 0 ? splat_int<P>(0) : splat_bytes<P>((const int8_t*)(start + j));
        if constexpr (!F.has_min) start += kTile;
        if (lane == 0) fetch_ahead<F, kTile>(u, code_bytes(F.codes));
        block_dots(sums, u, 0, a);
        const FloatsOf<P> d = block_scale<F, P>(w, b, lane);
#pragma GCC unroll 8
        for (int j = 0; j < kTile; ++j) acc[j] = fma(d * splat<P>(scales[j]), to_floats(sums.s[j]), acc[j]);
        if constexpr (F.has_min) {
            const FloatsOf<P> m = block_scale<F, P>(w, n_block + b, lane);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j) acc[j] = fma(m, splat<P>(((const float*)start)[j]), acc[j]);
            start += kTile;
        }
        scales += kTile, a += F.block * kTile, u += code_bytes(F.codes);
    }
}

// One panel for one tile: 256 values at a time, of these a part of the lanes after the other.
template <PanelFormat F, int kTile>
LK_INLINE void panel(const uint8_t* w, int64_t n_in, const int8_t* a, const float* scales, const int32_t* start,
                     Floats* out) {
    constexpr int P = parts_at_once(kTile), kTurns = kParts / P;
    FloatsOf<P> acc[kTurns][kTile];
    for (int part = 0; part < kTurns; ++part)
        for (int j = 0; j < kTile; ++j) acc[part][j] = splat<P>(0.0f);
    for (int64_t i = 0; i < n_in; i += kSuper) {
        const int n_block = n_in - i < kSuper ? int(n_in - i) / F.block : kSuper / F.block;
        for (int part = 0; part < kTurns; ++part) {
            FloatsOf<P> sums[kTile];
            for (int j = 0; j < kTile; ++j) sums[j] = acc[part][j];
            if constexpr (F.nested)
                nested_super<F, kTile>(w, part * P * kPartLanes, a, scales, start, sums);
            else
                plain_super<F, kTile>(w, n_block, part * P * kPartLanes, a, scales, start, sums);
            for (int j = 0; j < kTile; ++j) acc[part][j] = sums[j];
        }
        w += scale_bytes(F, n_block) + n_block * F.block / 32 * code_bytes(F.codes);
        a += n_block * F.block * kTile;
        scales += (F.nested ? 1 : n_block) * kTile;
        start += (F.nested && F.has_min ? n_block / 2 : n_block) * kTile;
    }
    for (int j = 0; j < kTile; ++j)
        for (int part = 0; part < kTurns; ++part) store((float*)(out + j) + part * P * kPartLanes, acc[part][j]);
}

using IntPanel = void (*)(const uint8_t*, int64_t, const int8_t*, const float*, const int32_t*, Floats*);

template <PanelFormat F, int kTile>
void int_panel(const uint8_t* w, int64_t n_in, const int8_t* a, const float* scales, const int32_t* start,
               Floats* out) {
    panel<F, kTile>(w, n_in, a, scales, start, out);
}

struct IntPanels {
    IntPanel of[kPackings][kIntTile];
};

constexpr IntPanels int_panels() {
    IntPanels made{};
    each_number<kPackings>([&]<int kPacking>() {
        each_number<kIntTile>([&]<int kAt>() { made.of[kPacking][kAt] = int_panel<kFormats[kPacking], kAt + 1>; });
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
        for (int64_t i = 0; i < n_block * tile; ++i) starts[i] = -start_bias(f) * sums[i];
    } else {
        for (int64_t b = 0; b < n_block; ++b)
            for (int j = 0; j < tile; ++j) {
                const int32_t total = sums[2 * b * tile + j] + sums[(2 * b + 1) * tile + j];
                if (f.has_min)
                    ((float*)starts)[b * tile + j] = scales[b * tile + j] * float(total);
                else
                    starts[b * tile + j] = -start_bias(f) * total;
            }
    }
}

// Rows whose activations stay in the cache while all panels pass by.
LK_INLINE int64_t rows_of_block(int64_t n_in) {
    constexpr int64_t kMost = 64 / kIntTile * kIntTile;
    const int64_t fit = (int64_t(384) << 10) / n_in / kIntTile * kIntTile;
    return fit < kIntTile ? kIntTile : fit > kMost ? kMost : fit;
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

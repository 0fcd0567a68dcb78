// y = x W^T with weights in float32, float16 or bfloat16, in float32; bfloat16 weights meet activations in bfloat16.
// One accumulator an output, in order along k. Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kFloatTile = 12, kWidePanels = 2, kThinPanels = 4, kThin = 2;
#elif defined(__aarch64__)
constexpr int kFloatTile = 6, kWidePanels = 1, kThinPanels = 2, kThin = 1;
#elif defined(__AVX2__)
constexpr int kFloatTile = 4, kWidePanels = 1, kThinPanels = 2, kThin = 1;
#else
constexpr int kFloatTile = 2, kWidePanels = 1, kThinPanels = 1, kThin = 1;
#endif

// Kinds of kernels: those of `WeightKind`, and bfloat16 weights for activations in float32.
constexpr int kFloatKinds = 4, kBF16 = int(WeightKind::bf16), kF16 = int(WeightKind::f16);

// Sixteen weights at k; of bfloat16 the pair of neighbours along k shares 32 bits.
template <int kKind>
LK_INLINE Floats load_weight(const uint8_t* panel, int64_t k) {
    if constexpr (kKind == kF16) return load_half((const uint16_t*)panel + k * kLanes);
    if constexpr (kKind >= kBF16) {
        const Ints pairs = load_bytes(panel + k / 2 * kPlane);
        return as_floats(k % 2 ? shifted(pairs, 0, int32_t(0xffff0000)) : shifted(pairs, 16, -1));
    }
    return load((const float*)panel + k * kLanes);
}

// acc[p][j] += W[p] x[j] for kPanels panels and kTile prepared rows.
template <int kKind, int kTile, int kPanels>
LK_INLINE void multiply(const uint8_t* panel, int64_t panel_bytes, int64_t n_in, const uint8_t* x,
                        Floats (&acc)[kPanels][kTile]) {
    if constexpr (kKind == kBF16) {
        const int32_t* pairs = (const int32_t*)x;
#pragma GCC unroll 2
        for (int64_t k = 0; k < (n_in + 1) / 2; ++k) {
            Ints w[kPanels];
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) w[p] = load_bytes(panel + p * panel_bytes + k * kPlane);
#pragma GCC unroll 16
            for (int j = 0; j < kTile; ++j) {
                const Ints a = splat_int(pairs[k * kTile + j]);
#pragma GCC unroll 4
                for (int p = 0; p < kPanels; ++p) acc[p][j] = dot_bf16(acc[p][j], w[p], a);
            }
        }
    } else {
        const float* values = (const float*)x;
#pragma GCC unroll 2
        for (int64_t k = 0; k < n_in; ++k) {
            Floats w[kPanels];
#pragma GCC unroll 4
            for (int p = 0; p < kPanels; ++p) w[p] = load_weight<kKind>(panel + p * panel_bytes, k);
#pragma GCC unroll 16
            for (int j = 0; j < kTile; ++j) {
                const Floats a = splat(values[k * kTile + j]);
#pragma GCC unroll 4
                for (int p = 0; p < kPanels; ++p) acc[p][j] = fma(w[p], a, acc[p][j]);
            }
        }
    }
}

using FloatPanels = void (*)(const uint8_t*, int64_t, int64_t, const uint8_t*, Floats*);

// Sums of kPanels panels to out[p][tile].
template <int kKind, int kTile, int kPanels>
void float_panels(const uint8_t* panel, int64_t panel_bytes, int64_t n_in, const uint8_t* x, Floats* out) {
    Floats acc[kPanels][kTile];
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kTile; ++j) acc[p][j] = splat(0.0f);
    multiply<kKind, kTile, kPanels>(panel, panel_bytes, n_in, x, acc);
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kTile; ++j) out[p * kTile + j] = acc[p][j];
}

struct FloatTables {
    FloatPanels one[kFloatKinds][kFloatTile], many[kFloatKinds][kFloatTile];
};

constexpr int panels_at_once(int tile) {
    return tile <= kThin ? kThinPanels : kWidePanels;
}

constexpr FloatTables float_tables() {
    FloatTables made{};
    each_number<kFloatKinds>([&]<int kKind>() {
        each_number<kFloatTile>([&]<int kAt>() {
            made.one[kKind][kAt] = float_panels<kKind, kAt + 1, 1>;
            made.many[kKind][kAt] = float_panels<kKind, kAt + 1, panels_at_once(kAt + 1)>;
        });
    });
    return made;
}

constexpr FloatTables kFloatTables = float_tables();

// Rows [from, to), `from` at a tile, of panels [begin, end).
void linear_float(const LinearTask& t, int kind, int64_t from, int64_t to, int64_t begin, int64_t end) {
    const int64_t n_in = t.weight.n_in, bytes = t.weight.panel_bytes;
    const bool pairs = t.x.form == ActForm::bf16 && kPairsOfBF16;
    const int64_t row_bytes = pairs ? (n_in + 1) / 2 * 4 : n_in * 4;
    Floats acc[kThinPanels * kFloatTile], up[kThinPanels * kFloatTile];
    const int64_t block = 48 / kFloatTile * kFloatTile;  // rows that stay in the cache while panels pass by
    for (int64_t first = from; first < to; first += block) {
        const int64_t last = to - first < block ? to : first + block;
        for (int64_t p = begin, n; p < end; p += n) {
            for (int64_t row = first; row < last; row += kFloatTile) {
                const int tile = tile_at(t.x.n_rows - row, kFloatTile);
                n = end - p >= kWidePanels ? kWidePanels : 1;
                if (last - first <= kThin && end - p >= kThinPanels) n = kThinPanels;
                const bool many = n == panels_at_once(tile);
                const int step = many ? int(n) : 1;
                const FloatPanels kernel = (many ? kFloatTables.many : kFloatTables.one)[kind][tile - 1];
                const uint8_t* x = t.x.values + row * row_bytes;
                for (int64_t q = p; q < p + n; q += step) {
                    kernel(t.weight.data + q * bytes, bytes, n_in, x, acc);
                    if (t.up) kernel(t.up->data + q * bytes, bytes, n_in, x, up);
                    for (int i = 0; i < step; ++i)
                        emit(t, acc + i * tile, t.up ? up + i * tile : nullptr, row, tile, q + i);
                }
            }
        }
    }
}

// Float panels [begin, end) of y = x W^T for rows of float32 that were not prepared.
void linear_rows(const WeightView& w, const float* x, int64_t ldx, int64_t n_rows, int64_t begin, int64_t end, float* y,
                 int64_t ldy, uint8_t* scratch) {
    LinearTask t{};
    t.weight = w, t.ldy = ldy, t.x = {ActForm::f32, 0, w.n_in, scratch, nullptr, nullptr};
    for (int64_t row = 0; row < n_rows; row += kFloatTile) {
        t.x.n_rows = tile_at(n_rows - row, kFloatTile);
        prepare(x + row * ldx, ldx, 0, int(t.x.n_rows), t.x);
        t.y = y + row * ldy;
        linear_float(t, w.kind == WeightKind::bf16 ? kBF16 + 1 : int(w.kind), 0, t.x.n_rows, begin, end);
    }
}

// Row `row` of a packed weight, as float32.
void weight_row(const WeightView& w, int64_t row, float* y) {
    const uint8_t* panel = w.data + row / kLanes * w.panel_bytes;
    const int64_t lane = row % kLanes;
    if (w.kind == WeightKind::quantised) return quantised_row(kFormats[int(w.packing)], panel, lane, w.n_in, y);
    for (int64_t k = 0; k < w.n_in; ++k) {
        const int64_t at = k * kLanes + lane;
        if (w.kind == WeightKind::f32) y[k] = ((const float*)panel)[at];
        if (w.kind == WeightKind::f16) y[k] = from_half(((const uint16_t*)panel)[at]);
        if (w.kind == WeightKind::bf16) y[k] = from_bf16(((const uint16_t*)panel)[(k / 2 * kLanes + lane) * 2 + k % 2]);
    }
}

// y = x W^T in float32 with weights in float32, float16 or bfloat16. One accumulator an output, in order along k.
// Included by units of kernels, inside their anonymous namespace.

#if defined(__AVX512F__)
constexpr int kFloatTile = 8, kWidePanels = 2, kThinPanels = 4;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kFloatTile = 4, kWidePanels = 1, kThinPanels = 2;
#else
constexpr int kFloatTile = 2, kWidePanels = 1, kThinPanels = 1;
#endif

template <WeightKind kKind>
LK_INLINE Floats load_weight(const uint8_t* panel, int64_t k) {
    if constexpr (kKind == WeightKind::f16) return load_half((const uint16_t*)panel + k * kLanes);
    if constexpr (kKind == WeightKind::bf16) return load_bf16((const uint16_t*)panel + k * kLanes);
    return load((const float*)panel + k * kLanes);
}

// kPanels panels for kTile rows; x is packed [n_in][kTile], or with kApart rows of ldx.
template <WeightKind kKind, int kTile, int kPanels, bool kApart>
void float_panel(const WeightView& w, const uint8_t* panel, const float* x, int64_t ldx, Floats* out) {
    Floats acc[kPanels][kTile];
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kTile; ++j) acc[p][j] = splat(0.0f);
    for (int64_t k = 0; k < w.n_in; ++k) {
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
            const Floats weight = load_weight<kKind>(panel + p * w.panel_bytes, k);
#pragma GCC unroll 8
            for (int j = 0; j < kTile; ++j)
                acc[p][j] = fma(weight, splat(x[kApart ? j * ldx + k : k * kTile + j]), acc[p][j]);
        }
    }
    for (int p = 0; p < kPanels; ++p)
        for (int j = 0; j < kTile; ++j) out[p * kTile + j] = acc[p][j];
}

LK_INLINE void store_panel(const WeightView& w, int64_t panel, int tile, const Floats* acc, float* y, int64_t ldy) {
    const int64_t lanes = w.n_out - panel * kLanes;
    for (int j = 0; j < tile; ++j) {
        if (lanes >= kLanes)
            store(y + j * ldy + panel * kLanes, acc[j]);
        else
            store_some(y + j * ldy + panel * kLanes, acc[j], lanes);
    }
}

template <WeightKind kKind, int kTile, bool kApart = false>
void float_tile(const WeightView& w, const float* x, int64_t ldx, int64_t begin, int64_t end, float* y, int64_t ldy) {
    constexpr int kPanels = kTile == 1 ? kThinPanels : kWidePanels;
    Floats acc[kPanels * kTile];
    int64_t p = begin;
    for (; p + kPanels <= end; p += kPanels) {
        float_panel<kKind, kTile, kPanels, kApart>(w, w.data + p * w.panel_bytes, x, ldx, acc);
        for (int i = 0; i < kPanels; ++i) store_panel(w, p + i, kTile, acc + i * kTile, y, ldy);
    }
    for (; p < end; ++p) {
        float_panel<kKind, kTile, 1, kApart>(w, w.data + p * w.panel_bytes, x, ldx, acc);
        store_panel(w, p, kTile, acc, y, ldy);
    }
}

template <WeightKind kKind>
void linear_kind(const WeightView& w, const float* x, int64_t ldx, int64_t n_rows, int64_t begin, int64_t end, float* y,
                 int64_t ldy, float* packed) {
    for (int64_t row = 0; row < n_rows;) {
        const int tile = tile_at(n_rows - row, kFloatTile);
        const float* in = x + row * ldx;
        float* out = y + row * ldy;
        row += tile;
        if (tile == kFloatTile && end - begin <= kWidePanels) {  // too few panels to earn back the packing
            float_tile<kKind, kFloatTile, true>(w, in, ldx, begin, end, out, ldy);
            continue;
        }
        if (tile > 1) {
            for (int64_t k = 0; k < w.n_in; ++k)
                for (int j = 0; j < tile; ++j) packed[k * tile + j] = in[j * ldx + k];
            in = packed;
        }
        if (tile == 1) float_tile<kKind, 1>(w, in, ldx, begin, end, out, ldy);
        if (tile == 2) float_tile<kKind, 2>(w, in, ldx, begin, end, out, ldy);
        if constexpr (kFloatTile >= 4)
            if (tile == 4) float_tile<kKind, 4>(w, in, ldx, begin, end, out, ldy);
        if constexpr (kFloatTile >= 8)
            if (tile == 8) float_tile<kKind, 8>(w, in, ldx, begin, end, out, ldy);
    }
}

void linear_float(const WeightView& w, const float* x, int64_t ldx, int64_t n_rows, int64_t begin, int64_t end,
                  float* y, int64_t ldy, uint8_t* scratch) {
    float* packed = (float*)scratch;
    if (w.kind == WeightKind::f16)
        linear_kind<WeightKind::f16>(w, x, ldx, n_rows, begin, end, y, ldy, packed);
    else if (w.kind == WeightKind::bf16)
        linear_kind<WeightKind::bf16>(w, x, ldx, n_rows, begin, end, y, ldy, packed);
    else
        linear_kind<WeightKind::f32>(w, x, ldx, n_rows, begin, end, y, ldy, packed);
}

// Row `row` of a packed weight, as float32.
void weight_row(const WeightView& w, int64_t row, float* y) {
    const uint8_t* panel = w.data + row / kLanes * w.panel_bytes;
    const int64_t lane = row % kLanes;
    for (int64_t k = 0; k < w.n_in; ++k) {
        const int64_t at = k * kLanes + lane;
        if (w.kind == WeightKind::f32) y[k] = ((const float*)panel)[at];
        if (w.kind == WeightKind::f16) y[k] = from_half(((const uint16_t*)panel)[at]);
        if (w.kind == WeightKind::bf16) y[k] = from_bf16(((const uint16_t*)panel)[at]);
        if (w.kind != WeightKind::quantised) continue;
        const int64_t group = k / 4, scale_at = k / w.format.block * kLanes + lane;
        const int64_t plane = w.format.wide ? group : group / 2;
        int u = panel[(plane * kLanes + lane) * 4 + k % 4];
        if (!w.format.wide) u = group % 2 ? u >> 4 : u & 15;
        const bool half = w.format.half_scale;
        const uint8_t *d = panel + w.scale_offset, *m = panel + w.min_offset;
        const float scale = half ? from_half(((const uint16_t*)d)[scale_at]) : ((const float*)d)[scale_at];
        y[k] = scale * float(u - w.format.bias);
        if (w.format.has_min) y[k] += half ? from_half(((const uint16_t*)m)[scale_at]) : ((const float*)m)[scale_at];
    }
}

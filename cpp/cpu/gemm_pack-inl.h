// Operands of products in the order in which gemm-inl.h wants them. Included by units of kernels, inside their
// anonymous namespace, after gemm-inl.h, transpose-inl.h and unpack-inl.h.

// Two neighbours along k, rounded to bfloat16, as one word.
LK_INLINE float pair_of(float low, float high) {
    return float_of(uint32_t(to_bf16(low)) | uint32_t(to_bf16(high)) << 16);
}

// Upper halves of float32, rounded to nearest even; no NaN in, none out.
LK_INLINE Ints round_to_upper(Floats x) {
    Ints r;
    LK_PARTS {
        const IntPart bits = (IntPart)x.p[i];
        r.p[i] = (bits + 0x7fff + ((bits >> 16) & 1)) & int32_t(0xffff0000);
    }
    return r;
}

void pack_left(const Strided& a, int64_t rows, int64_t k, bool pairs, float* out) {
    const int64_t words = pairs ? (k + 1) / 2 : k;
    for (int64_t row = 0; row < rows; row += kTileRows, out += kTileRows * words) {
        const int tile = tile_at(rows - row, kTileRows);
        const float* x = a.data + row * a.row;
        if (pairs) {
            for (int64_t i = 0; i < words; ++i)
                for (int j = 0; j < tile; ++j) {
                    const float* at = x + j * a.row + 2 * i * a.column;
                    out[i * tile + j] = pair_of(at[0], 2 * i + 1 < k ? at[a.column] : 0.0f);
                }
        } else if (a.row == 1) {
            for (int64_t i = 0; i < k; ++i)
                for (int j = 0; j < tile; ++j) out[i * tile + j] = x[i * a.column + j];
        } else if (tile == kTileRows) {
            for (int64_t i = 0; i < k; ++i)
                for (int j = 0; j < kTileRows; ++j) out[i * kTileRows + j] = x[j * a.row + i * a.column];
        } else {
            for (int64_t i = 0; i < k; ++i)
                for (int j = 0; j < tile; ++j) out[i * tile + j] = x[j * a.row + i * a.column];
        }
    }
}

// Panels of a matrix whose rows along n lie in one piece.
LK_INLINE void panels_of_rows(const Strided& b, int64_t k, int64_t n, float* out) {
    for (int64_t i = 0; i < k; ++i) {
        const float* x = b.data + i * b.row;
        float* y = out + i * kLanes;
        int64_t j = 0;
        for (; j + kLanes <= n; j += kLanes, y += kPanelFloats) store(y, load(x + j));
        if (j < n) store(y, load_some(x + j, n - j));
    }
}

// Panels of a matrix whose columns along k lie in one piece, or of any other.
LK_INLINE void panels_of_columns(const Strided& b, int64_t k, int64_t n, float* out) {
    for (int64_t j = 0; j < n; j += kLanes, out += kPanelFloats) {
        const int64_t lanes = n - j < kLanes ? n - j : kLanes;
        const float* x = b.data + j * b.column;
        int64_t i = 0;
        if (b.row == 1 && lanes == kLanes) {
            i = k / 4 * 4;
            transpose((const uint8_t*)x, b.column * 4, i, (uint8_t*)out);
        }
        for (; i < k; ++i)
            for (int64_t lane = 0; lane < kLanes; ++lane)
                out[i * kLanes + lane] = lane < lanes ? x[i * b.row + lane * b.column] : 0.0f;
    }
}

// Panels of W (k = n_out): sixteen rows of it are unpacked, [n_in][16], and turned over.
LK_INLINE void panels_of_weight_back(const WeightView& w, int64_t k_begin, int64_t k, int64_t begin, int64_t end,
                                     float* out) {
    alignas(64) float rows[kColumnsTogether * kLanes];
    for (int64_t i = 0; i < k; i += kLanes) {
        unpack_panel(w, (k_begin + i) / kLanes, begin, end, rows);
        for (int64_t j = (end - begin) * kLanes; j % (kLanes * kLanes) != 0; ++j) rows[j] = 0.0f;
        for (int64_t j = 0; j < end - begin; j += kLanes)
            transpose((const uint8_t*)(rows + j * kLanes), kPlane, kLanes,
                      (uint8_t*)(out + j / kLanes * kPanelFloats + i * kLanes));
    }
}

// One panel of float32 to pairs along k, in place.
LK_INLINE void pair_panel(float* x, int64_t k) {
    for (int64_t i = 0; i < k; i += 2) {
        const Floats second = i + 1 < k ? load(x + (i + 1) * kLanes) : splat(0.0f);
        const Ints low = shifted(round_to_upper(load(x + i * kLanes)), -16, 0xffff);
        store_bytes((uint8_t*)(x + i / 2 * kLanes), low | round_to_upper(second));
    }
}

void pack_right(const Right& b, int64_t k_begin, int64_t k, int64_t begin, int64_t end, bool pairs, float* out) {
    if (b.weight && b.back) {
        for (int64_t at = begin; at < end; at += kColumnsTogether)
            panels_of_weight_back(*b.weight, k_begin, k, at, at + kColumnsTogether < end ? at + kColumnsTogether : end,
                                  out + (at - begin) / kLanes * kPanelFloats);
    } else if (b.weight) {
        for (int64_t at = begin; at < end; at += kLanes)
            unpack_panel(*b.weight, at / kLanes, k_begin, k_begin + k, out + (at - begin) * kDepth);
    } else {
        const Strided& v = b.values;
        const Strided part = {v.data + k_begin * v.row + begin * v.column, v.row, v.column};
        if (v.column == 1)
            panels_of_rows(part, k, end - begin, out);
        else
            panels_of_columns(part, k, end - begin, out);
    }
    for (int64_t at = begin; pairs && at < end; at += kLanes) pair_panel(out + (at - begin) * kDepth, k);
}

void product(const ProductTask& t, float* scratch) {
    for (int64_t at = t.n_begin; at < t.n_end; at += kColumnsTogether) {
        const int64_t end = t.n_end - at < kColumnsTogether ? t.n_end : at + kColumnsTogether;
        const int64_t n_panel = (end - at + kLanes - 1) / kLanes;
        const WeightView* w = t.b.weight;
        if (t.packed_b) {
            multiply_panels(t, t.packed_b + (at - t.n_begin) * kDepth, kPanelFloats, at, n_panel);
        } else if (w && !t.b.back && !t.pairs && w->kind == WeightKind::f32) {  // they lie as they are wanted
            const float* panel = (const float*)(w->data + at / kLanes * w->panel_bytes) + t.k_begin * kLanes;
            multiply_panels(t, panel, w->panel_bytes / 4, at, n_panel);
        } else {
            pack_right(t.b, t.k_begin, t.k, at, end, t.pairs, scratch);
            multiply_panels(t, scratch, kPanelFloats, at, n_panel);
        }
    }
}

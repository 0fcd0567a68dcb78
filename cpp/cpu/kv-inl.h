// Rounding keys and values into the cache and reading them back. `KVLayer` in types.h describes the layout.
// Included by units of kernels, inside their anonymous namespace.

LK_INLINE int64_t size_of(KVType type) {
    return type == KVType::f32 ? 4 : type == KVType::q8_0 ? 1 : 2;
}

LK_INLINE void encode(KVType type, float x, uint8_t* y) {
    if (type == KVType::f32) *(float*)y = x;
    // Held to what is finite: a key that a row does not see has weight 0, and 0 times infinity would be NaN.
    if (type == KVType::f16) *(uint16_t*)y = to_half(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
    if (type == KVType::bf16) *(uint16_t*)y = to_bf16(x);
}

LK_INLINE float decode(KVType type, const uint8_t* y) {
    if (type == KVType::f32) return *(const float*)y;
    if (type == KVType::f16) return from_half(*(const uint16_t*)y);
    if (type == KVType::bf16) return from_bf16(*(const uint16_t*)y);
    return float(*(const int8_t*)y);
}

// The part of one head of the group that holds the cell.
LK_INLINE uint8_t* k_panel(const KVLayer& l, int64_t cell, int64_t head) {
    return l.k + (cell / kLanes * l.n_head + head) * l.pad_k * kLanes * size_of(l.type);
}

LK_INLINE uint8_t* v_panel(const KVLayer& l, int64_t cell, int64_t head) {
    return l.v + (cell / kLanes * l.n_head + head) * l.dim_v * kLanes * size_of(l.type);
}

// Bytes from a panel's start to value d of a cell.
LK_INLINE int64_t k_place(KVType type, int64_t lane, int64_t d) {
    const int64_t p = kTogether[int(type)];
    return ((d / p * kLanes + lane) * p + d % p) * size_of(type);
}

LK_INLINE int64_t v_place(const KVLayer& l, int64_t lane, int64_t d) {
    const int64_t p = kTogether[int(l.type)];
    return ((lane / p * l.dim_v + d) * p + lane % p) * size_of(l.type);
}

// The scales of q8_0 of value i of a cell, counted over all heads.
LK_INLINE uint16_t* k_scale(const KVLayer& l, int64_t cell, int64_t i) {
    return l.k_scales + (cell / kLanes * (l.n_head * l.dim_k / 32) + i / 32) * kLanes + cell % kLanes;
}

LK_INLINE uint16_t* v_scale(const KVLayer& l, int64_t cell, int64_t i) {
    return l.v_scales + cell * (l.n_head * l.dim_v / 32) + i / 32;
}

// GGUF Q8_0: scale = largest magnitude / 127 in float16, halves rounded away from zero. Values to q[32].
LK_INLINE void encode_q8(const float* x, int8_t* q, uint16_t* scale) {
    float top = 0.0f;
    for (int i = 0; i < 32; ++i) top = __builtin_fabsf(x[i]) > top ? __builtin_fabsf(x[i]) : top;
    top = top < 127.0f * 65504.0f ? top : 127.0f * 65504.0f;  // the largest scale that float16 holds
    const float d = top / 127.0f, inverse = d > 0.0f ? 1.0f / d : 0.0f;
    *scale = to_half(d);
    for (int i = 0; i < 32; ++i) {
        const float scaled = x[i] * inverse, most = scaled < 127.0f ? scaled : 127.0f;
        const float held = most > -127.0f ? most : -127.0f;  // what a model gives need not be a number
        q[i] = int8_t(held < 0.0f ? held - 0.5f : held + 0.5f);
    }
}

// Rows of a cell to the places that the layout gives its values; the type is known when this is compiled.
template <KVType kType>
LK_INLINE void write_cell(const KVLayer& l, int64_t cell, const float* k, const float* v) {
    const int64_t lane = cell % kLanes;
    int8_t bytes[32];
    for (int64_t h = 0, i = 0; h < l.n_head; ++h) {
        uint8_t* panel = k_panel(l, cell, h);
        for (int64_t d = 0; d < l.dim_k; ++d, ++i) {
            if (kType == KVType::q8_0 && i % 32 == 0) encode_q8(k + i, bytes, k_scale(l, cell, i));
            if (kType == KVType::q8_0)
                *(int8_t*)(panel + k_place(kType, lane, d)) = bytes[i % 32];
            else
                encode(kType, k[i], panel + k_place(kType, lane, d));
        }
    }
    for (int64_t h = 0, i = 0; h < l.n_head; ++h) {
        uint8_t* panel = v_panel(l, cell, h);
        for (int64_t d = 0; d < l.dim_v; ++d, ++i) {
            if (kType == KVType::q8_0 && i % 32 == 0) encode_q8(v + i, bytes, v_scale(l, cell, i));
            if (kType == KVType::q8_0)
                *(int8_t*)(panel + v_place(l, lane, d)) = bytes[i % 32];
            else
                encode(kType, v[i], panel + v_place(l, lane, d));
        }
    }
}

void kv_write(const KVLayer& l, int64_t cell, const float* k, const float* v) {
    if (l.type == KVType::f32) write_cell<KVType::f32>(l, cell, k, v);
    if (l.type == KVType::f16) write_cell<KVType::f16>(l, cell, k, v);
    if (l.type == KVType::bf16) write_cell<KVType::bf16>(l, cell, k, v);
    if (l.type == KVType::q8_0) write_cell<KVType::q8_0>(l, cell, k, v);
}

LK_INLINE float k_value(const KVLayer& l, int64_t cell, int64_t head, int64_t d) {
    const float x = decode(l.type, k_panel(l, cell, head) + k_place(l.type, cell % kLanes, d));
    return l.type == KVType::q8_0 ? x * from_half(*k_scale(l, cell, head * l.dim_k + d)) : x;
}

LK_INLINE float v_value(const KVLayer& l, int64_t cell, int64_t head, int64_t d) {
    const float x = decode(l.type, v_panel(l, cell, head) + v_place(l, cell % kLanes, d));
    return l.type == KVType::q8_0 ? x * from_half(*v_scale(l, cell, head * l.dim_v + d)) : x;
}

void kv_read(const KVLayer& l, int64_t cell, float* k, float* v) {
    for (int64_t h = 0; h < l.n_head; ++h) {
        for (int64_t d = 0; d < l.dim_k; ++d) k[h * l.dim_k + d] = k_value(l, cell, h, d);
        for (int64_t d = 0; d < l.dim_v; ++d) v[h * l.dim_v + d] = v_value(l, cell, h, d);
    }
}

// Sixteen pairs of bfloat16 apart.
LK_INLINE void load_pairs(const uint8_t* x, Floats& even, Floats& odd) {
    const Ints pairs = load_bytes(x);
    Ints low, high;
    LK_PARTS low.p[i] = pairs.p[i] << 16, high.p[i] = pairs.p[i] & int32_t(0xffff0000);
    __builtin_memcpy(&even, &low, sizeof even);
    __builtin_memcpy(&odd, &high, sizeof odd);
}

// Byte j of sixteen quads.
LK_INLINE Floats load_quad(const uint8_t* x, int j) {
    Ints quads = load_bytes(x);
    LK_PARTS quads.p[i] = (quads.p[i] << (24 - 8 * j)) >> 24;
    return to_floats(quads);
}

// All keys of one head of the group that holds the cell, to float32: y is [dim_k][16].
LK_INLINE void read_k_panel(const KVLayer& l, int64_t cell, int64_t head, float* y) {
    const uint8_t* x = k_panel(l, cell, head);
    if (l.type == KVType::f32)
        for (int64_t d = 0; d < l.dim_k; ++d) store(y + d * kLanes, load((const float*)x + d * kLanes));
    if (l.type == KVType::f16)
        for (int64_t d = 0; d < l.dim_k; ++d) store(y + d * kLanes, load_half((const uint16_t*)x + d * kLanes));
    if (l.type == KVType::bf16)
        for (int64_t d = 0; d < l.dim_k; d += 2, x += 64, y += 2 * kLanes) {
            Floats even, odd;
            load_pairs(x, even, odd);
            store(y, even);
            if (d + 1 < l.dim_k) store(y + kLanes, odd);
        }
    if (l.type == KVType::q8_0) {
        const uint16_t* scales = k_scale(l, cell / kLanes * kLanes, 0);
        for (int64_t d = 0; d < l.dim_k; ++d) {
            const Floats scale = load_half(scales + (head * l.dim_k + d) / 32 * kLanes);
            store(y + d * kLanes, load_quad(x + d / 4 * 64, int(d % 4)) * scale);
        }
    }
}

// Values [from, from + n) of one head of the first m cells of a group, to rows of `ld` floats.
LK_INLINE void read_v_panel(const KVLayer& l, int64_t cell, int64_t head, int64_t m, int64_t from, int64_t n, float* y,
                            int64_t ld) {
    if (l.type == KVType::bf16)
        for (int64_t i = 0; i < m; i += 2, y += 2 * ld)
            for (int64_t d = 0; d < n; d += kLanes) {
                Floats even, odd;
                load_pairs(v_panel(l, cell, head) + v_place(l, i, from + d), even, odd);
                store(y + d, even);
                if (i + 1 < m) store(y + ld + d, odd);
            }
    else if (l.type == KVType::q8_0)
        for (int64_t i = 0; i < m; i += 4, y += 4 * ld)
            for (int64_t d = 0; d < n; d += kLanes) {
                const uint8_t* x = v_panel(l, cell, head) + v_place(l, i, from + d);
                for (int j = 0; j < 4 && i + j < m; ++j) {
                    const uint16_t scale = *v_scale(l, cell + i + j, head * l.dim_v + from + d);
                    store(y + j * ld + d, load_quad(x, j) * splat(from_half(scale)));
                }
            }
    else
        for (int64_t i = 0; i < m; ++i, y += ld)
            for (int64_t d = 0; d < n; d += kLanes) {
                const uint8_t* x = v_panel(l, cell, head) + v_place(l, i, from + d);
                store(y + d, l.type == KVType::f32 ? load((const float*)x) : load_half((const uint16_t*)x));
            }
}

// Values [from, from + n) of one head of one cell, zeros up to the next multiple of 16.
LK_INLINE void read_v_row(const KVLayer& l, int64_t cell, int64_t head, int64_t from, int64_t n, float* y) {
    for (int64_t d = 0; d < (n + kLanes - 1) / kLanes * kLanes; ++d)
        y[d] = d < n ? v_value(l, cell, head, from + d) : 0.0f;
}

// Rounding keys and values into the cache and reading them back.
// Included by units of kernels, inside their anonymous namespace.

// Writes value i of a row at [i * stride] of the storage type.
LK_INLINE void encode(KVType type, const float* x, int64_t n, int64_t stride, uint8_t* y) {
    for (int64_t i = 0; i < n; ++i) {
        if (type == KVType::f32) ((float*)y)[i * stride] = x[i];
        if (type == KVType::f16) ((uint16_t*)y)[i * stride] = to_half(x[i]);
        if (type == KVType::bf16) ((uint16_t*)y)[i * stride] = to_bf16(x[i]);
    }
}

LK_INLINE float decode(KVType type, const uint8_t* y, int64_t at) {
    if (type == KVType::f32) return ((const float*)y)[at];
    if (type == KVType::f16) return from_half(((const uint16_t*)y)[at]);
    if (type == KVType::bf16) return from_bf16(((const uint16_t*)y)[at]);
    return float(((const int8_t*)y)[at]);
}

// GGUF Q8_0: 32 values with scale = largest magnitude / 127 in float16, halves rounded away from zero.
LK_INLINE void encode_q8(const float* x, int64_t n, int64_t stride, int8_t* q, uint16_t* scales) {
    for (int64_t b = 0; b < n / 32; ++b) {
        float top = 0.0f;
        for (int i = 0; i < 32; ++i) top = __builtin_fabsf(x[b * 32 + i]) > top ? __builtin_fabsf(x[b * 32 + i]) : top;
        const float d = top / 127.0f, inverse = d > 0.0f ? 1.0f / d : 0.0f;
        scales[b * stride] = to_half(d);
        for (int i = 0; i < 32; ++i) {
            const float scaled = x[b * 32 + i] * inverse;
            q[(b * 32 + i) * stride] = int8_t(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);
        }
    }
}

LK_INLINE int64_t size_of(KVType type) {
    return type == KVType::f32 ? 4 : type == KVType::q8_0 ? 1 : 2;
}

LK_INLINE uint8_t* k_group(const KVLayer& l, int64_t cell) {
    return l.k + cell / kLanes * kLanes * l.k_values * size_of(l.type);
}

void kv_write(const KVLayer& l, int64_t cell, const float* k, const float* v) {
    const int64_t group = cell / kLanes, lane = cell % kLanes, size = size_of(l.type);
    uint8_t *keys = k_group(l, cell) + lane * size, *values = l.v + cell * l.v_values * size;
    if (l.type == KVType::q8_0) {
        encode_q8(k, l.k_values, kLanes, (int8_t*)keys, l.k_scales + group * (l.k_values / 32) * kLanes + lane);
        encode_q8(v, l.v_values, 1, (int8_t*)values, l.v_scales + cell * (l.v_values / 32));
    } else {
        encode(l.type, k, l.k_values, kLanes, keys);
        encode(l.type, v, l.v_values, 1, values);
    }
}

LK_INLINE float k_value(const KVLayer& l, int64_t cell, int64_t i) {
    const float x = decode(l.type, k_group(l, cell), i * kLanes + cell % kLanes);
    if (l.type != KVType::q8_0) return x;
    return x * from_half(l.k_scales[(cell / kLanes * (l.k_values / 32) + i / 32) * kLanes + cell % kLanes]);
}

LK_INLINE float v_value(const KVLayer& l, int64_t cell, int64_t i) {
    const float x = decode(l.type, l.v, cell * l.v_values + i);
    return l.type == KVType::q8_0 ? x * from_half(l.v_scales[cell * (l.v_values / 32) + i / 32]) : x;
}

void kv_read(const KVLayer& l, int64_t cell, float* k, float* v) {
    for (int64_t i = 0; i < l.k_values; ++i) k[i] = k_value(l, cell, i);
    for (int64_t i = 0; i < l.v_values; ++i) v[i] = v_value(l, cell, i);
}

LK_INLINE Floats load_int8(const int8_t* x) {
    float wide[kLanes];
    for (int i = 0; i < kLanes; ++i) wide[i] = float(x[i]);
    return load(wide);
}

// Sixteen stored values from index `at` on; scales of q8_0 are the caller's.
LK_INLINE Floats load_kv(KVType type, const uint8_t* data, int64_t at) {
    if (type == KVType::f32) return load((const float*)data + at);
    if (type == KVType::f16) return load_half((const uint16_t*)data + at);
    if (type == KVType::bf16) return load_bf16((const uint16_t*)data + at);
    return load_int8((const int8_t*)data + at);
}

// Keys of 16 neighbouring cells, values [from, from + n): y is [n][16].
LK_INLINE void read_k_group(const KVLayer& l, int64_t cell, int64_t from, int64_t n, float* y) {
    const uint8_t* keys = k_group(l, cell);
    const uint16_t* scales = l.type == KVType::q8_0 ? l.k_scales + cell / kLanes * (l.k_values / 32) * kLanes : nullptr;
    for (int64_t i = 0; i < n; ++i) {
        Floats x = load_kv(l.type, keys, (from + i) * kLanes);
        if (scales) x = x * load_half(scales + (from + i) / 32 * kLanes);
        store(y + i * kLanes, x);
    }
}

// Values [from, from + n) of one cell.
LK_INLINE void read_v_row(const KVLayer& l, int64_t cell, int64_t from, int64_t n, float* y) {
    const int64_t base = cell * l.v_values + from;
    int64_t i = 0;
    if (from % kLanes == 0) {
        for (; i + kLanes <= n; i += kLanes) {
            Floats x = load_kv(l.type, l.v, base + i);
            if (l.type == KVType::q8_0)
                x = x * splat(from_half(l.v_scales[cell * (l.v_values / 32) + (from + i) / 32]));
            store(y + i, x);
        }
    }
    for (; i < n; ++i) y[i] = v_value(l, cell, from + i);
}

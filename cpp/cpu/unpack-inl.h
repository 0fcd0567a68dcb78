// Weights of a panel as float32, [k][16]. Included by units of kernels, inside their anonymous namespace, after
// layout-inl.h.

// The codes, a byte each, of group g of the eight groups of 32 values whose planes begin at u.
template <Codes kCodes>
LK_INLINE Ints codes_of_group(const uint8_t* u, int g) {
    const auto bits = [&](int plane, int from, int32_t mask)
                          LK_LAMBDA { return shifted(load_bytes(u + plane * kPlane), -from, mask * 0x01010101); };
    const int half = g / 4, crumb = 2 * (g % 4);
    if constexpr (kCodes == Codes::byte) return load_bytes(u + g * kPlane);
    if constexpr (kCodes == Codes::nibble) return bits(g % 4, 4 * half, 15);
    if constexpr (kCodes == Codes::nibble_bit) return bits(1 + g % 4, 4 * half, 15) | shifted(bits(0, g, 1), 4, -1);
    if constexpr (kCodes == Codes::pair) return bits(half, crumb, 3);
    if constexpr (kCodes == Codes::pair_bit) return bits(1 + half, crumb, 3) | shifted(bits(0, g, 1), 2, -1);
    const int first = 3 * half;
    return bits(first + 1 + g % 2, g % 4 < 2 ? 0 : 4, 15) | shifted(bits(first, crumb, 3), 4, -1);
}

// Sixteen pairs of bytes: the first or second of each.
LK_INLINE Floats byte_of_pairs(const uint8_t* x, int which) {
    Ints pairs;
    __builtin_memset(&pairs, 0, sizeof pairs);
    const Floats moved = load_bf16((const uint16_t*)x);  // in the upper halves of the lanes
    LK_PARTS pairs.p[i] = (IntPart)moved.p[i];
    return to_floats(shifted(pairs, -16 - 8 * which, 255));
}

// Scale and minimum less bias of block b of the piece of a panel that begins at w: value = scale * code + offset.
template <int kPacking>
LK_INLINE void scale_and_offset(const uint8_t* w, int n_block, int b, Floats& scale, Floats& offset) {
    constexpr PanelFormat f = kFormats[kPacking];
    const uint16_t* halves = (const uint16_t*)w;
    const uint8_t* sc = w + 64;
    if constexpr (f.nested)
        scale = load_half(halves) * splat(1.0f / float(f.divisor)) * bytes_to_floats((const int8_t*)sc + b * kLanes);
    else if constexpr (f.wide_scale)
        scale = load((const float*)w + b * kLanes);
    else
        scale = load_half(halves + b * kLanes);
    offset = scale * splat(-float(f.bias));
    if constexpr (f.has_min && f.nested) {
        const uint8_t* minima = sc + n_block * kLanes + b / 2 * kLanes * 2;
        offset = offset - load_half(halves + kLanes) * byte_of_pairs(minima, b % 2);
    } else if constexpr (f.has_min) {
        offset = offset + load_half(halves + (n_block + b) * kLanes);
    }
}

// Values [from, to) along k; both at multiples of 32.
template <int kPacking>
void unpack_quantised(const uint8_t* panel, int64_t n_in, int64_t from, int64_t to, float* y) {
    constexpr PanelFormat f = kFormats[kPacking];
    constexpr int kBlocks = 32 / f.block;
    constexpr int64_t kPiece = scale_bytes(f, kSuper / f.block) + kSuper / 32 * code_bytes(f.codes);
    for (int64_t at = from; at < to; at += 32, y += 32 * kLanes) {
        const int64_t first = at / kSuper * kSuper;
        const uint8_t* w = panel + first / kSuper * kPiece;
        const int n_block = int(n_in - first < kSuper ? n_in - first : kSuper) / f.block;
        const uint8_t* u = w + scale_bytes(f, n_block) + (at - first) / 32 * code_bytes(f.codes);
        Floats scale[kBlocks], offset[kBlocks];
        for (int i = 0; i < kBlocks; ++i)
            scale_and_offset<kPacking>(w, n_block, int(at - first) / f.block + i, scale[i], offset[i]);
        each_number<8>([&]<int kGroup>() LK_LAMBDA {
            constexpr int i = kGroup * 4 / f.block;
            Ints codes = codes_of_group<f.codes>(u, kGroup);
            if constexpr (f.table != 0) codes = lookup(codes, kTables[f.table]);
            for (int b = 0; b < 4; ++b)
                store(y + (4 * kGroup + b) * kLanes, fma(to_floats(shifted(codes, -8 * b, 255)), scale[i], offset[i]));
        });
    }
}

using UnpackPanel = void (*)(const uint8_t*, int64_t, int64_t, int64_t, float*);

struct UnpackPanels {
    UnpackPanel of[kPackings];
};

constexpr UnpackPanels unpack_panels() {
    UnpackPanels made{};
    each_number<kPackings>([&]<int kPacking>() { made.of[kPacking] = unpack_quantised<kPacking>; });
    return made;
}

constexpr UnpackPanels kUnpackPanels = unpack_panels();

// Values [from, to) along k of panel p of a packed weight, of quantised ones at multiples of 32.
void unpack_panel(const WeightView& w, int64_t p, int64_t from, int64_t to, float* y) {
    const uint8_t* panel = w.data + p * w.panel_bytes;
    if (w.kind == WeightKind::quantised) return kUnpackPanels.of[int(w.packing)](panel, w.n_in, from, to, y);
    for (int64_t k = from; k < to; ++k, y += kLanes) {
        if (w.kind == WeightKind::f32) store(y, load((const float*)panel + k * kLanes));
        if (w.kind == WeightKind::f16) store(y, load_half((const uint16_t*)panel + k * kLanes));
        if (w.kind != WeightKind::bf16) continue;
        Ints pair = load_bytes(panel + k / 2 * kPlane);  // of neighbours along k
        pair = k % 2 ? shifted(pair, 0, int32_t(0xffff0000)) : shifted(pair, 16, -1);
        store(y, as_floats(pair));
    }
}

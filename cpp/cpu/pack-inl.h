// GGUF's blocks to panels (`layout-inl.h`). Included by units of kernels, inside their anonymous namespace.
// The block formats are described in `formats/blocks.h` and `formats/packing.h`.

using namespace lk::formats;

// Whether codes of a packing are unpacked to planes at once, four bytes of each, one plane after the other, since that
// is nearly how they lie in the file. Others are unpacked to a byte each, in order.
constexpr bool in_planes(Packing packing) {
    return packing == Packing::q4_0 || packing == Packing::q4_1 || packing == Packing::q4_k ||
           packing == Packing::iq4_nl || packing == Packing::iq4_xs || packing == Packing::mxfp4 ||
           kFormats[int(packing)].codes == Codes::byte;  // a byte each is a plane
}

// 256 values (or fewer) of one row: codes, and scales and minima as they are in the file.
struct Unpacked {
    uint8_t* codes;
    uint16_t d[kSuper / 16], m[kSuper / 16];  // nested: one each
    float wide[kSuper / 32];
    int8_t scales[16];
    uint8_t minima[16];
};

// In place: tensors begin at multiples of 8 bytes, which aligns every block.
template <class Block>
LK_INLINE const Block& block_at(const uint8_t* bytes, int i) {
    return ((const Block*)bytes)[i];
}

typedef uint8_t SixteenBytes __attribute__((vector_size(16)));

LK_INLINE SixteenBytes sixteen(const uint8_t* x) {
    SixteenBytes r;
    __builtin_memcpy(&r, x, sizeof r);
    return r;
}

// The low halves of 16 bytes, then the high ones.
LK_INLINE void nibbles(const uint8_t* qs, uint8_t* u) {
    const SixteenBytes both = sixteen(qs), low = both & 15, high = both >> 4;
    __builtin_memcpy(u, &low, sizeof low);
    __builtin_memcpy(u + 16, &high, sizeof high);
}

// Adds bit j of qh to value j, as its fifth.
LK_INLINE void fifth_bits(const uint8_t* qh, uint8_t* u) {
    const SixteenBytes place = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    for (int half = 0; half < 2; ++half, u += 16) {
        uint64_t spread[2];
        for (int i = 0; i < 2; ++i) spread[i] = 0x0101010101010101u * uint64_t(qh[2 * half + i]);
        const SixteenBytes bits = (SixteenBytes)((sixteen((const uint8_t*)spread) & place) != 0) & 16;
        const SixteenBytes sum = sixteen(u) | bits;
        __builtin_memcpy(u, &sum, sizeof sum);
    }
}

LK_INLINE void scales_k4(const uint8_t* s, int8_t* scales, uint8_t* minima) {
    for (int j = 0; j < 4; ++j) {
        scales[j] = int8_t(s[j] & 63), minima[j] = s[j + 4] & 63;
        scales[j + 4] = int8_t((s[j + 8] & 15) | (s[j] >> 6) << 4);
        minima[j + 4] = uint8_t((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
    }
}

LK_INLINE void crumbs(const uint8_t* qs, uint8_t* u) {
    for (int part = 0; part < 8; ++part)
        for (int l = 0; l < 32; ++l) u[32 * part + l] = (qs[32 * (part / 4) + l] >> (2 * (part % 4))) & 3;
}

// Blocks of 32 values: `n_block` of them.
LK_INLINE void unpack_blocks(Packing packing, const uint8_t* bytes, int n_block, Unpacked& out) {
    for (int b = 0; b < n_block; ++b) {
        uint8_t* u = out.codes + 32 * b;
        if (packing == Packing::q4_0 || packing == Packing::iq4_nl) {
            const auto& block = block_at<BlockQ4_0>(bytes, b);
            out.d[b] = block.d;
            __builtin_memcpy(out.codes + 16 * b, block.qs, 16);
        } else if (packing == Packing::q4_1) {
            const auto& block = block_at<BlockQ4_1>(bytes, b);
            out.d[b] = block.d, out.m[b] = block.m;
            __builtin_memcpy(out.codes + 16 * b, block.qs, 16);
        } else if (packing == Packing::q5_0) {
            const auto& block = block_at<BlockQ5_0>(bytes, b);
            out.d[b] = block.d;
            nibbles(block.qs, u);
            fifth_bits(block.qh, u);
        } else if (packing == Packing::q5_1) {
            const auto& block = block_at<BlockQ5_1>(bytes, b);
            out.d[b] = block.d, out.m[b] = block.m;
            nibbles(block.qs, u);
            fifth_bits(block.qh, u);
        } else if (packing == Packing::mxfp4) {
            const auto& block = block_at<BlockMXFP4>(bytes, b);
            out.wide[b] = power_of_two(block.e);
            __builtin_memcpy(out.codes + 16 * b, block.qs, 16);
        } else {
            const auto& block = block_at<BlockQ8_0>(bytes, b);
            out.d[b] = block.d;
            for (int half = 0; half < 2; ++half) {
                const SixteenBytes moved = sixteen((const uint8_t*)block.qs + 16 * half) ^ 128;
                __builtin_memcpy(u + 16 * half, &moved, sizeof moved);
            }
        }
    }
}

// The GGUF type of a packing whose blocks are expanded first, or -1.
constexpr int expanded_type(Packing packing) {
    return packing == Packing::iq1_s     ? IQ1_S
           : packing == Packing::iq1_m   ? IQ1_M
           : packing == Packing::iq2_xxs ? IQ2_XXS
           : packing == Packing::iq2_xs  ? IQ2_XS
           : packing == Packing::iq2_s   ? IQ2_S
           : packing == Packing::iq3_xxs ? IQ3_XXS
           : packing == Packing::iq3_s   ? IQ3_S
           : packing == Packing::tq1_0   ? TQ1_0
           : packing == Packing::tq2_0   ? TQ2_0
                                         : -1;
}

struct CodesOf {
    uint8_t value[256];  // by the value as a byte
};

// The code for each value that a format has.
constexpr CodesOf codes_of(PanelFormat f) {
    CodesOf made{};
    for (int code = 15; code >= 0; --code)  // down, since a table may end in zeros that mean nothing
        made.value[uint8_t((f.table ? kTables[f.table][code] : code) - f.bias)] = uint8_t(code);
    return made;
}

// One block of a grid's codes, or of ternary ones.
template <Packing kPacking>
LK_INLINE void unpack_expanded(const uint8_t* bytes, Unpacked& out) {
    constexpr PanelFormat f = kFormats[int(kPacking)];
    static constexpr CodesOf kCodes = codes_of(f);
    Expanded block;
    expand(expanded_type(kPacking), bytes, &block);
    out.d[0] = block.d;
    for (int b = 0; b < kSuper / f.block; ++b) out.scales[b] = block.scales[b * f.block / 16];
    for (int i = 0; i < kSuper; ++i) out.codes[i] = kCodes.value[uint8_t(block.q[i])];
}

// One block of 256 values.
LK_INLINE void unpack_super(Packing packing, const uint8_t* bytes, Unpacked& out) {
    uint8_t* u = out.codes;
    if (packing == Packing::q2_k) {
        const auto& block = block_at<BlockQ2_K>(bytes, 0);
        out.d[0] = block.d, out.m[0] = block.dmin;
        for (int s = 0; s < 16; ++s) out.scales[s] = int8_t(block.scales[s] & 15), out.minima[s] = block.scales[s] >> 4;
        crumbs(block.qs, u);
    } else if (packing == Packing::q3_k) {
        const auto& block = block_at<BlockQ3_K>(bytes, 0);
        out.d[0] = block.d;
        for (int s = 0; s < 16; ++s) {
            const int low = s < 8 ? block.scales[s] & 15 : block.scales[s - 8] >> 4;
            out.scales[s] = int8_t((low | ((block.scales[8 + s % 4] >> (2 * (s / 4))) & 3) << 4) - 32);
        }
        crumbs(block.qs, u);
        for (int part = 0; part < 8; ++part)
            for (int l = 0; l < 32; ++l) u[32 * part + l] |= uint8_t(((block.hmask[l] >> part) & 1) << 2);
    } else if (packing == Packing::q4_k) {
        const auto& block = block_at<BlockQ4_K>(bytes, 0);
        out.d[0] = block.d, out.m[0] = block.dmin;
        scales_k4(block.scales, out.scales, out.minima);
        for (int c = 0; c < 4; ++c, u += 32) {  // low nibbles are one block, high ones the next
            const SixteenBytes first = sixteen(block.qs + 32 * c), second = sixteen(block.qs + 32 * c + 16);
            const SixteenBytes low = (first & 15) | (second << 4), high = (first >> 4) | (second & 240);
            __builtin_memcpy(u, &low, 16);
            __builtin_memcpy(u + 16, &high, 16);
        }
    } else if (packing == Packing::q5_k) {
        const auto& block = block_at<BlockQ5_K>(bytes, 0);
        out.d[0] = block.d, out.m[0] = block.dmin;
        scales_k4(block.scales, out.scales, out.minima);
        for (int c = 0; c < 4; ++c)
            for (int l = 0; l < 32; ++l) {
                const int both = block.qs[32 * c + l], bits = block.qh[l] >> (2 * c);
                u[64 * c + l] = uint8_t((both & 15) | (bits & 1) << 4);
                u[64 * c + 32 + l] = uint8_t(both >> 4 | (bits & 2) << 3);
            }
    } else if (packing == Packing::q6_k) {
        const auto& block = block_at<BlockQ6_K>(bytes, 0);
        out.d[0] = block.d;
        for (int s = 0; s < 16; ++s) out.scales[s] = block.scales[s];
        crumbs(block.qh, u);
        for (int part = 0; part < 8; ++part) {
            const uint8_t* low = block.ql + 64 * (part / 4) + 32 * (part % 2);
            for (int l = 0; l < 32; ++l)
                u[32 * part + l] = uint8_t(u[32 * part + l] << 4 | ((low[l] >> (part % 4 / 2 * 4)) & 15));
        }
    } else if (packing == Packing::iq4_xs) {
        const auto& block = block_at<BlockIQ4_XS>(bytes, 0);
        out.d[0] = block.d;
        for (int s = 0; s < 8; ++s) {
            out.scales[s] = int8_t(scale_iq4_xs(block, s));
            __builtin_memcpy(u + 16 * s, block.qs + 16 * s, 16);
        }
    } else {
        const auto& block = block_at<BlockQ8_K>(bytes, 0);
        for (int b = 0; b < 8; ++b) out.wide[b] = block.d;
        for (int j = 0; j < kSuper; ++j) u[j] = uint8_t(block.qs[j] + 128);
    }
}

LK_INLINE void write_scales(PanelFormat f, const Unpacked& row, int n_block, int lane, uint8_t* w) {
    uint16_t* halves = (uint16_t*)w;
    if (f.nested) {
        halves[lane] = row.d[0];
        if (f.has_min) halves[kLanes + lane] = row.m[0];
        uint8_t *sc = w + 64, *minima = sc + n_block * kLanes;
        for (int b = 0; b < n_block; ++b) {
            sc[b * kLanes + lane] = uint8_t(row.scales[b]);
            if (f.has_min) minima[(b / 2 * kLanes + lane) * 2 + b % 2] = row.minima[b];
        }
        return;
    }
    for (int b = 0; b < n_block; ++b) {
        if (f.wide_scale)
            ((float*)w)[b * kLanes + lane] = row.wide[b];
        else
            halves[b * kLanes + lane] = row.d[b];
        if (f.has_min) halves[(n_block + b) * kLanes + lane] = row.m[b];
    }
}

// The codes of 32 values: `groups` holds [8][16] words of four codes.
LK_INLINE void write_codes(PanelFormat f, const uint8_t* groups, uint8_t* u) {
    const auto group = [&](int g) LK_LAMBDA { return load_bytes(groups + kPlane * g); };
    const auto store_plane = [&](Ints x) LK_LAMBDA {
        store_bytes(u, x);
        u += kPlane;
    };
    // `n` groups from `first` on, `width` bits of each from bit `from` on, side by side.
    const auto bits = [&](int first, int n, int width, int from) LK_LAMBDA {
        const int mask = ((1 << width) - 1) * 0x01010101;
        Ints plane = splat_int(0);
        for (int g = 0; g < n; ++g) plane = plane | shifted(shifted(group(first + g), -from, mask), width * g, -1);
        return plane;
    };
    const auto nibble_planes = [&](int first, int n) LK_LAMBDA {
        for (int i = 0; i < n; ++i)
            store_plane(shifted(group(first + i), 0, 0x0f0f0f0f) |
                        shifted(shifted(group(first + n + i), 0, 0x0f0f0f0f), 4, -1));
    };
    if (f.codes == Codes::nibble_bit) store_plane(bits(0, 8, 1, 4));
    if (f.codes == Codes::nibble || f.codes == Codes::nibble_bit) nibble_planes(0, 4);
    if (f.codes == Codes::pair_bit) store_plane(bits(0, 8, 1, 2));
    for (int half = 0; half < 2; ++half) {
        if (f.codes == Codes::pair || f.codes == Codes::pair_bit) store_plane(bits(4 * half, 4, 2, 0));
        if (f.codes == Codes::nibble_pair) {
            store_plane(bits(4 * half, 4, 2, 4));
            nibble_planes(4 * half, 2);
        }
    }
}

template <int kPacking>
void pack_quantised(const uint8_t* rows, int64_t row_bytes, int n_row, int64_t n_in, uint8_t* panel) {
    constexpr PanelFormat f = kFormats[kPacking];
    constexpr bool kWhole = f.nested || Packing(kPacking) == Packing::q8_k;  // blocks of 256 in the file
    const int64_t n_file = kWhole ? n_in / kSuper : n_in / 32, block_bytes = row_bytes / n_file;
    const int64_t step_bytes = kSuper / (kWhole ? kSuper : 32) * block_bytes;
    alignas(64) uint8_t codes[kLanes][kSuper];
    alignas(64) uint8_t groups[kSuper * kLanes];
    __builtin_memset(codes[n_row], 0, size_t(kLanes - n_row) * kSuper);
    for (int64_t from = 0; from < n_in; from += kSuper) {
        const int n = n_in - from < kSuper ? int(n_in - from) : kSuper, n_block = n / f.block;
        // What is read next lies in sixteen places, in this panel or in the one behind it: more than processors
        // foresee.
        const int64_t next = n_in - from > kSuper ? step_bytes : kLanes * row_bytes - from / kSuper * step_bytes;
        for (int lane = 0; lane < n_row; ++lane) {
            const uint8_t* at = rows + lane * row_bytes + from / kSuper * step_bytes;
            for (int64_t i = 0; i < step_bytes; i += 64) __builtin_prefetch(at + next + i);
            Unpacked row;
            row.codes = codes[lane];
            if constexpr (expanded_type(Packing(kPacking)) >= 0)
                unpack_expanded<Packing(kPacking)>(at, row);
            else if constexpr (kWhole)
                unpack_super(Packing(kPacking), at, row);
            else
                unpack_blocks(Packing(kPacking), at, n_block, row);
            write_scales(f, row, n_block, lane, panel);
        }
        panel += scale_bytes(f, n_block);
        if constexpr (in_planes(Packing(kPacking))) {
            const int n_word = n / 32 * code_bytes(f.codes) / kPlane;
            transpose(codes[0], kSuper, n_word, panel);
            panel += n_word * kPlane;
        } else {
            transpose(codes[0], kSuper, n / 4, groups);
            for (int i = 0; i < n / 32; ++i, panel += code_bytes(f.codes))
                write_codes(f, groups + 8 * kPlane * i, panel);
        }
    }
}

// Float rows as they come: whole panels of a convenient length by words, of which float16 has two that part again.
LK_INLINE void pack_whole_float(WeightKind kind, const uint8_t* rows, int64_t row_bytes, uint8_t* panel) {
    constexpr int kBlock = 64;  // bytes of each row at a time
    for (int64_t at = 0; at < row_bytes; at += kBlock) {
        for (int lane = 0; lane < kLanes; ++lane) __builtin_prefetch(rows + lane * row_bytes + at + 4 * kBlock);
        if (kind != WeightKind::f16) {
            transpose(rows + at, row_bytes, kBlock / 4, panel + at * kLanes);
            continue;
        }
        alignas(64) uint32_t pairs[kBlock / 4][kLanes];
        transpose(rows + at, row_bytes, kBlock / 4, (uint8_t*)pairs);
        uint16_t* halves = (uint16_t*)(panel + at * kLanes);
        for (int i = 0; i < kBlock / 4; ++i, halves += 2 * kLanes)
            for (int lane = 0; lane < kLanes; ++lane)
                halves[lane] = uint16_t(pairs[i][lane]), halves[kLanes + lane] = uint16_t(pairs[i][lane] >> 16);
    }
}

void pack_float(WeightKind kind, const uint8_t* rows, int64_t row_bytes, int n_row, int64_t n_in, uint8_t* panel) {
    if (n_row == kLanes && row_bytes % 64 == 0) return pack_whole_float(kind, rows, row_bytes, panel);
    for (int lane = 0; lane < n_row; ++lane) {
        const uint8_t* row = rows + lane * row_bytes;
        for (int64_t k = 0; k < n_in; ++k) {
            if (kind == WeightKind::f32) __builtin_memcpy(panel + (k * kLanes + lane) * 4, row + 4 * k, 4);
            if (kind == WeightKind::f16) __builtin_memcpy(panel + (k * kLanes + lane) * 2, row + 2 * k, 2);
            if (kind == WeightKind::bf16)
                __builtin_memcpy(panel + ((k / 2 * kLanes + lane) * 2 + k % 2) * 2, row + 2 * k, 2);
        }
    }
}

using PackPanel = void (*)(const uint8_t*, int64_t, int, int64_t, uint8_t*);

struct PackPanels {
    PackPanel of[kPackings];
};

constexpr PackPanels pack_panels() {
    PackPanels made{};
    each_number<kPackings>([&]<int kPacking>() { made.of[kPacking] = pack_quantised<kPacking>; });
    return made;
}

constexpr PackPanels kPackPanels = pack_panels();

// Rows [0, n_row) of a tensor in GGUF's blocks to one panel of zeros; n_row <= 16.
void pack_panel(const WeightView& w, const uint8_t* rows, int64_t row_bytes, int n_row, uint8_t* panel) {
    if (w.kind == WeightKind::quantised)
        kPackPanels.of[int(w.packing)](rows, row_bytes, n_row, w.n_in, panel);
    else
        pack_float(w.kind, rows, row_bytes, n_row, w.n_in, panel);
}

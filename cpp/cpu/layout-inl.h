// Where things lie in a quantised panel. Included by units of kernels, inside their anonymous namespace.
//
// A panel holds 16 output rows; 256 values along k of all of them lie together (at the end of a row of other length,
// what is left of it): first the scales, then the codes.
// - Scales: one float16 (or float32) for each block and row, [blocks][16], then as many minima; nested ones: float16 d
//   and d of the minima, [2][16], then int8 scales [blocks][16], then uint8 minima [blocks/2][16][2].
// - Codes, for each 32 values: a "plane" is 64 bytes, 4 neighbours along k (a "group") of 16 rows. Groups of a block
//   share planes: low nibbles hold the first half of the groups, high nibbles the second; pairs of bits hold four
//   groups; single bits eight. Planes of upper bits come before those of lower bits.

constexpr int scale_bytes(PanelFormat f, int n_block) {
    if (f.nested) return 64 + n_block * kLanes * (f.has_min ? 2 : 1);
    const int n = n_block * kLanes * (f.wide_scale ? 4 : 2) * (f.has_min ? 2 : 1);
    return (n + 63) / 64 * 64;
}

// Bytes of the codes of 32 values of 16 rows.
constexpr int code_bytes(Codes codes) {
    return codes == Codes::byte          ? 8 * kPlane
           : codes == Codes::nibble      ? 4 * kPlane
           : codes == Codes::nibble_bit  ? 5 * kPlane
           : codes == Codes::nibble_pair ? 6 * kPlane
           : codes == Codes::pair        ? 2 * kPlane
                                         : 3 * kPlane;
}

LK_INLINE int64_t panel_size(PanelFormat f, int64_t n_in) {
    const int64_t whole = n_in / kSuper, rest = n_in % kSuper;
    int64_t n = whole * (scale_bytes(f, kSuper / f.block) + kSuper / 32 * code_bytes(f.codes));
    if (rest > 0) n += scale_bytes(f, int(rest) / f.block) + rest / 32 * code_bytes(f.codes);
    return n;
}

// What the codes of IQ4_NL and IQ4_XS, of MXFP4 (doubled), and of IQ1, IQ2, IQ3_XXS and IQ3_S stand for, plus the
// format's bias.
constexpr uint8_t kTables[7][16] = {{},
                                    {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240},
                                    {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
                                    {0, 2, 8, 10, 16, 18},
                                    {0, 18, 35, 51, 68, 86},
                                    {0, 10, 18, 26, 34, 42, 50, 58, 66, 74, 82, 90, 98, 106, 114, 124},
                                    {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30}};

// Codes of row `lane`, 32 values from their planes on.
LK_INLINE void read_codes(PanelFormat f, const uint8_t* u, int64_t lane, uint8_t* codes) {
    for (int k = 0; k < 32; ++k) {
        const int half = f.block == 16 ? k / 16 : 0, g = k % f.block / 4, n = f.block / 4;
        const auto byte = [&](int plane) LK_LAMBDA { return int(u[(plane * kLanes + lane) * 4 + k % 4]); };
        int code = 0;
        if (f.codes == Codes::byte) code = byte(k / 4);
        if (f.codes == Codes::pair) code = (byte(half) >> (2 * g)) & 3;
        if (f.codes == Codes::pair_bit) code = ((byte(1 + half) >> (2 * g)) & 3) | ((byte(0) >> (k / 4)) & 1) << 2;
        if (f.codes == Codes::nibble || f.codes == Codes::nibble_bit || f.codes == Codes::nibble_pair) {
            const int upper = f.codes == Codes::nibble ? 0 : 1, first = half * (upper + n / 2);
            code = (byte(first + upper + g % (n / 2)) >> (g < n / 2 ? 0 : 4)) & 15;
            if (f.codes == Codes::nibble_bit) code |= ((byte(first) >> g) & 1) << 4;
            if (f.codes == Codes::nibble_pair) code |= ((byte(first) >> (2 * g)) & 3) << 4;
        }
        codes[k] = uint8_t(code);
    }
}

void quantised_row(PanelFormat f, const uint8_t* w, int64_t lane, int64_t n_in, float* y) {
    for (int64_t from = 0; from < n_in; from += kSuper) {
        const int n = n_in - from < kSuper ? int(n_in - from) : kSuper, n_block = n / f.block;
        const uint8_t* u = w + scale_bytes(f, n_block);
        const auto half = [&](int64_t at) LK_LAMBDA { return from_half(((const uint16_t*)w)[at]); };
        for (int i = 0; i < n; i += 32, u += code_bytes(f.codes)) {
            uint8_t codes[32];
            read_codes(f, u, lane, codes);
            for (int k = 0; k < 32; ++k) {
                const int b = (i + k) / f.block;
                float scale, minimum = 0.0f;
                if (f.nested) {
                    const uint8_t *sc = w + 64, *minima = sc + n_block * kLanes;
                    scale = half(lane) / float(f.divisor) * float(((const int8_t*)sc)[b * kLanes + lane]);
                    if (f.has_min) minimum = half(kLanes + lane) * -float(minima[(b / 2 * kLanes + lane) * 2 + b % 2]);
                } else {
                    scale = f.wide_scale ? ((const float*)w)[b * kLanes + lane] : half(b * kLanes + lane);
                    if (f.has_min) minimum = half((n_block + b) * kLanes + lane);
                }
                const int code = f.table ? kTables[f.table][codes[k]] : codes[k];
                y[from + i + k] = scale * float(code - f.bias) + minimum;
            }
        }
        w = u;
    }
}

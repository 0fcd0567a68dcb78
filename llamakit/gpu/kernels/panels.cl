// place_values(): what a place has in a step of a panel, as float32: see llamakit/gpu/packed.py, which defines the layout.
// -D: PANEL, STEP, PLACES, TYPE_name, LOW and HIGH (bits of the planes), STEP_BYTES, SUPERBLOCK_BYTES, SCALES_n (where planes
// of scales begin).

FN int steps_of(int n_in) { return (n_in + STEP - 1) / STEP; }

FN i64 panel_size(int n_in) {
    int n = steps_of(n_in);
    return (i64)n * STEP_BYTES + (i64)((n + 3) / 4) * SUPERBLOCK_BYTES;
}

// The words that a place has in a step of a plane of `bits` bits.
FN void words_of(GLOBAL const u8 *plane, const int bits, int step, int place, u32 *words) {
    plane += PANEL * STEP / 8 * bits * step;
    if (bits == 1) words[0] = ((GLOBAL const u32 *)plane)[place];
    if (bits == 2) {
        uint2 found = ((GLOBAL const uint2 *)plane)[place];
        words[0] = found.x;
        words[bits / 2] = found.y;
    }
    for (int i = 0; i < bits / 4; ++i) {
        uint4 found = ((GLOBAL const uint4 *)plane)[PLACES * i + place];
        words[4 * i] = found.x;
        words[4 * i + 1] = found.y;
        words[4 * i + 2] = found.z;
        words[4 * i + 3] = found.w;
    }
}

// Code number `e` of a place: of even columns in the lower halves of words, of odd ones in the upper halves.
FN u32 code_in(const u32 *words, const int bits, int e) {
    int i = e % (32 / bits);
    return (words[e / (32 / bits)] >> (i % 2 * 16 + i / 2 * bits)) & ((1u << bits) - 1u);
}

// code - zero: exact, and cheaper than a conversion
FN float number(u32 code, float zero) { return BITS_FLOAT(0x4b000000u | code) - (8388608.0f + zero); }

FN int byte_in(u32 word, int i) { return (int)((word >> (8 * i)) & 255u); }

FN int signed_byte_in(u32 word, int i) { return (int)(word << (24 - 8 * i)) >> 24; }

FN void four_halves(GLOBAL const u8 *plane, int at, float *to) {
    uint2 found = ((GLOBAL const uint2 *)plane)[at];
    to[0] = HALF_VALUE(found.x & 0xffffu);
    to[1] = HALF_VALUE(found.x >> 16);
    to[2] = HALF_VALUE(found.y & 0xffffu);
    to[3] = HALF_VALUE(found.y >> 16);
}

FN void two_halves(GLOBAL const u8 *plane, int at, float *to) {
    u32 found = ((GLOBAL const u32 *)plane)[at];
    to[0] = HALF_VALUE(found & 0xffffu);
    to[1] = HALF_VALUE(found >> 16);
}

// Scale and minimum of each of a place's four parts: row g, row g + 8 of the first 32 columns, the same of the others.
FN void scales_of(GLOBAL const u8 *b, int steps, int step, int place, float *scale, float *minimum) {
    int g = place / 4, of_32 = 8 * step + g, of_16 = 2 * of_32 + place % 4 / 2;
    (void)of_16;
    for (int i = 0; i < 4; ++i) minimum[i] = 0.0f;
#if defined(TYPE_Q4_0) || defined(TYPE_Q5_0) || defined(TYPE_Q8_0) || defined(TYPE_IQ4_NL)
    four_halves(b + SCALES_0(steps), of_32, scale);
#elif defined(TYPE_Q4_1) || defined(TYPE_Q5_1)
    four_halves(b + SCALES_0(steps), of_32, scale);
    four_halves(b + SCALES_1(steps), of_32, minimum);
    for (int i = 0; i < 4; ++i) minimum[i] = -minimum[i];
#elif defined(TYPE_Q4_K) || defined(TYPE_Q5_K)
    float d[2], dmin[2];
    two_halves(b + SCALES_0(steps), g, d);
    two_halves(b + SCALES_1(steps), g, dmin);
    u32 scales = ((GLOBAL const u32 *)(b + SCALES_2(steps)))[of_32];
    u32 minima = ((GLOBAL const u32 *)(b + SCALES_3(steps)))[of_32];
    for (int i = 0; i < 4; ++i) {
        scale[i] = d[i % 2] * (float)byte_in(scales, i);
        minimum[i] = dmin[i % 2] * (float)byte_in(minima, i);
    }
#elif defined(TYPE_Q2_K)
    float d[2], dmin[2];
    two_halves(b + SCALES_0(steps), g, d);
    two_halves(b + SCALES_1(steps), g, dmin);
    u32 both = ((GLOBAL const u32 *)(b + SCALES_2(steps)))[of_16];
    for (int i = 0; i < 4; ++i) {
        scale[i] = d[i % 2] * (float)(byte_in(both, i) & 15);
        minimum[i] = dmin[i % 2] * (float)(byte_in(both, i) >> 4);
    }
#elif defined(TYPE_Q3_K) || defined(TYPE_Q6_K) || defined(TYPE_IQ4_XS)
    float d[2];
    two_halves(b + SCALES_0(steps), g, d);
#ifdef TYPE_IQ4_XS
    u32 scales = ((GLOBAL const u32 *)(b + SCALES_1(steps)))[of_32];
#else
    u32 scales = ((GLOBAL const u32 *)(b + SCALES_1(steps)))[of_16];
#endif
    for (int i = 0; i < 4; ++i) scale[i] = d[i % 2] * (float)signed_byte_in(scales, i);
#elif defined(TYPE_TQ2_0)
    two_halves(b + SCALES_0(steps), g, scale);
    scale[2] = scale[0];
    scale[3] = scale[1];
#elif defined(TYPE_Q8_K)
    for (int i = 0; i < 4; ++i) scale[i] = ((GLOBAL const float *)(b + SCALES_0(steps)))[2 * g + i % 2];
#elif defined(TYPE_MXFP4)
    u32 scales = ((GLOBAL const u32 *)(b + SCALES_0(steps)))[of_32];
    for (int i = 0; i < 4; ++i) scale[i] = power_of_two((u32)byte_in(scales, i));
#else  // floats
    for (int i = 0; i < 4; ++i) scale[i] = 1.0f;
#endif
}

#if defined(TYPE_Q4_0)
#define ZERO 8.0f
#elif defined(TYPE_Q5_0)
#define ZERO 16.0f
#elif defined(TYPE_Q8_0) || defined(TYPE_Q8_K)
#define ZERO 128.0f
#elif defined(TYPE_Q3_K)
#define ZERO 4.0f
#elif defined(TYPE_Q6_K)
#define ZERO 32.0f
#elif defined(TYPE_TQ2_0)
#define ZERO 1.0f
#endif

FN float value_of(u32 code, float scale, float minimum) {
#if defined(TYPE_F16)
    return HALF_VALUE(code);
#elif defined(TYPE_BF16)
    return bfloat_value(code);
#elif defined(NAMED_0)  // four values of codes in each word
    u32 low = code & 4u ? NAMED_1 : NAMED_0, high = code & 4u ? NAMED_3 : NAMED_2;
    return scale * (float)signed_byte_in(code & 8u ? high : low, (int)(code & 3u));
#elif defined(ZERO)
    return scale * number(code, ZERO);
#else
    return scale * number(code, 0.0f) - minimum;
#endif
}

// v[i]: eight columns of row g of the first 32 columns, of row g + 8, and of both in the second 32, for place 4 g + t the
// columns 8 t and those after.
FN void place_values(GLOBAL const u8 *panel, int n_in, int step, int place, float v[4][8]) {
    int last = steps_of(n_in) - step / 4 * 4, steps = last < 4 ? last : 4;
    GLOBAL const u8 *b = panel + (i64)(step / 4) * (4 * STEP_BYTES + SUPERBLOCK_BYTES);
    u32 low[LOW];
    float scale[4], minimum[4];
    words_of(b, LOW, step % 4, place, low);
#if HIGH
    u32 high[HIGH];
    words_of(b + PANEL * STEP / 8 * LOW * steps, HIGH, step % 4, place, high);
#endif
    scales_of(b, steps, step % 4, place, scale, minimum);
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 8; ++j) {
            u32 code = code_in(low, LOW, 8 * i + j);
#if HIGH
            code |= code_in(high, HIGH, 8 * i + j) << LOW;
#endif
            v[i][j] = value_of(code, scale[i], minimum[i]);
        }
}
